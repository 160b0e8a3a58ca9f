/** Credit notes: an invoice made less, before it is paid, or after, by refunds, credit, or money outside of Stripe. */
import { discountOf, taxTotals, totals } from './amounts.ts'
import { moveBalance } from './balance.ts'
import { customerOf } from './customers.ts'
import { change, emit } from './events.ts'
import { listOf } from './lists.ts'
import { markPaid } from './pay-invoice.ts'
import { refund } from './refunds.ts'
import { invalid, need } from './refusals.ts'
import { shareOf, sum } from './shares.ts'
import type { State } from './state.ts'
import { taxesOf, taxRatesOf } from './taxes.ts'
import { type Charge, type CreditNote, type CreditNoteLine, type Invoice, type Metadata, newId, nulls } from './wire.ts'

type NewLine =
  | { type: 'invoice_line_item'; invoice_line_item: string; amount?: number | undefined; quantity?: number | undefined }
  | { type: 'custom_line_item'; description: string; quantity: number; unit_amount: number }

type NewNote = {
  lines: NewLine[] | undefined
  amount: number | undefined
  refund_amount: number
  credit_amount: number
  out_of_band_amount: number
  refunds: { refund: string; amount_refunded: number }[]
  reason: CreditNote['reason']
  memo: string | null
  metadata: Metadata
}

export function creditInvoice(state: State, invoice: Invoice, given: NewNote): CreditNote {
  if (invoice.status !== 'open' && invoice.status !== 'paid' && invoice.status !== 'uncollectible')
    throw invalid('Credit notes are of invoices that are finalized and not void.', { param: 'invoice' })
  const lines = linesOf(state, invoice, given)
  const { total } = totalsOf(lines)
  const before = invoice.pre_payment_credit_notes_amount + invoice.post_payment_credit_notes_amount
  if (total <= 0 || total > invoice.total - before)
    throw invalid(`A credit note of ${total} is not between 1 and what is left (${invoice.total - before}).`, {
      param: 'amount',
    })
  const pre = invoice.status === 'paid' ? 0 : Math.min(total, invoice.amount_remaining)
  checkPost(state, total - pre, given)
  const refunds = refundParts(state, invoice, given)
  const note = newNote(state, invoice, lines, { ...given, pre, refunds })
  state.creditNotes.set(note.id, note)
  if (given.credit_amount > 0) creditBalance(state, note, given.credit_amount)
  settleNote(state, invoice, note, 1)
  emit(state, 'credit_note.created', note)
  return note
}

/** What is more than was still due goes back some way, and every way is named. */
function checkPost(state: State, post: number, given: NewNote): void {
  const linked = sum(given.refunds.map(({ amount_refunded }) => amount_refunded))
  for (const { refund: id } of given.refunds) need(state.refunds, 'refund', id, 'refunds')
  const ways = given.refund_amount + given.credit_amount + given.out_of_band_amount + linked
  if (ways !== post)
    throw invalid(
      `The sum of refund, credit and what is outside of Stripe (${ways}) must equal the part after payment (${post}).`,
      { param: 'amount' },
    )
}

function refundParts(state: State, invoice: Invoice, { refund_amount, refunds }: NewNote): CreditNote['refunds'] {
  const part = (id: string, amount_refunded: number): CreditNote['refunds'][number] => ({
    ...nulls('payment_record_refund'),
    amount_refunded,
    refund: id,
    type: 'refund',
  })
  const linked = refunds.map((one) => part(one.refund, one.amount_refunded))
  if (refund_amount === 0) return linked
  const charge = chargeOf(state, invoice)
  if (!charge) throw invalid('This invoice has no payment that could be refunded.', { param: 'refund_amount' })
  const made = refund(state, charge, { amount: refund_amount, reason: 'requested_by_customer', metadata: {} })
  return [...linked, part(made.id, refund_amount)]
}

function chargeOf(state: State, { id }: Invoice): Charge | undefined {
  const payment = state.invoicePayments.get(state.paymentsOfInvoices.get(id) ?? '')?.payment
  const intent = state.intents.get(payment?.payment_intent ?? '')
  const charge = state.charges.get(payment?.charge ?? intent?.latest_charge ?? '')
  return charge?.paid ? charge : undefined
}

function creditBalance(state: State, note: CreditNote, amount: number): void {
  const customer = customerOf(state, note.customer)
  const { currency, invoice, id } = note
  const entry = moveBalance(state, customer, {
    amount: -amount,
    currency,
    type: 'credit_note',
    invoice,
    credit_note: id,
  })
  note.customer_balance_transaction = entry.id
}

/** The invoice says how much of it was credited; what is not due any more is paid. */
function settleNote(state: State, invoice: Invoice, note: CreditNote, sign: 1 | -1): void {
  const pre = sign * note.pre_payment_amount
  change(state, 'invoice.updated', invoice, {
    pre_payment_credit_notes_amount: invoice.pre_payment_credit_notes_amount + pre,
    post_payment_credit_notes_amount: invoice.post_payment_credit_notes_amount + sign * note.post_payment_amount,
    amount_due: invoice.amount_due - pre,
    amount_remaining: invoice.amount_remaining - pre,
  })
  if (invoice.status === 'open' && invoice.amount_remaining === 0) markPaid(state, invoice)
}

export function voidNote(state: State, note: CreditNote): CreditNote {
  const invoice = need(state.invoices, 'invoice', note.invoice)
  if (note.status === 'void') throw invalid('This credit note is void already.')
  if (note.post_payment_amount > 0 || invoice.status !== 'open')
    throw invalid('Only credit notes of open invoices can be voided.')
  note.status = 'void'
  note.voided_at = state.now()
  settleNote(state, invoice, note, -1)
  emit(state, 'credit_note.voided', note)
  return note
}

/** An amount alone is one line of that much. */
function linesOf(state: State, invoice: Invoice, { lines, amount }: NewNote): CreditNoteLine[] {
  if ((lines === undefined) === (amount === undefined))
    throw invalid('You must pass either amount or lines.', { code: 'parameter_missing', param: 'amount' })
  if (lines) return lines.map((given) => noteLine(state, invoice, given))
  return [
    noteLine(state, invoice, {
      type: 'custom_line_item',
      description: 'Credit',
      quantity: 1,
      unit_amount: amount ?? 0,
    }),
  ]
}

function noteLine(state: State, invoice: Invoice, given: NewLine): CreditNoteLine {
  const common = {
    id: newId('cnli_1', 23),
    object: 'credit_note_line_item' as const,
    livemode: false,
    metadata: {},
    tax_rates: [],
  }
  if (given.type === 'custom_line_item') {
    const { description, quantity, unit_amount } = given
    const whole = { amount: quantity * unit_amount, unit_amount, unit_amount_decimal: String(unit_amount) }
    const plain = { discount_amount: 0, discount_amounts: [], pretax_credit_amounts: [], taxes: [] }
    return { ...common, ...plain, ...whole, description, quantity, type: 'custom_line_item' }
  }
  const line = invoice.lines.data.find(({ id }) => id === given.invoice_line_item)
  if (!line)
    throw invalid(`No such invoice line item: '${given.invoice_line_item}'`, {
      code: 'resource_missing',
      param: 'lines',
    })
  const { quantity = null } = given
  const amount = given.amount ?? shareOf(line.amount, quantity ?? line.quantity ?? 1, line.quantity ?? 1)
  if (amount <= 0 || amount > line.amount)
    throw invalid('A line is not credited more than it costs.', { param: 'lines' })
  const discount_amounts = (line.discount_amounts ?? []).map((taken) => ({
    ...taken,
    amount: shareOf(taken.amount, amount, line.amount),
  }))
  const discount_amount = discountOf({ discount_amounts })
  return {
    ...common,
    amount,
    description: line.description,
    discount_amount,
    discount_amounts,
    invoice_line_item: line.id,
    pretax_credit_amounts: discount_amounts.map((taken) => ({ ...taken, type: 'discount' })),
    quantity,
    taxes: taxesOf(state, amount - discount_amount, taxRatesOf(state, invoice, line), invoice),
    type: 'invoice_line_item',
    unit_amount: null,
    unit_amount_decimal: null,
  }
}

function totalsOf(lines: CreditNoteLine[]) {
  const taxes = lines.flatMap((line) => line.taxes ?? [])
  const of = (behavior: string) =>
    sum(taxes.filter(({ tax_behavior }) => tax_behavior === behavior).map(({ amount }) => amount))
  const subtotal = sum(lines.map(({ amount }) => amount))
  const discount = sum(lines.map(({ discount_amount }) => discount_amount))
  const total = subtotal - discount + of('exclusive')
  return {
    taxes,
    subtotal,
    discount,
    total,
    excluding: total - of('exclusive') - of('inclusive'),
    inclusive: of('inclusive'),
  }
}

function newNote(
  state: State,
  invoice: Invoice,
  lines: CreditNoteLine[],
  given: Pick<NewNote, 'memo' | 'metadata' | 'out_of_band_amount' | 'reason'> & {
    pre: number
    refunds: CreditNote['refunds']
  },
): CreditNote {
  const id = newId('cn_1', 23)
  const { taxes, subtotal, discount, total, excluding, inclusive } = totalsOf(lines)
  const discount_amounts = totals(lines.flatMap((line) => line.discount_amounts))
  const { pre, refunds, memo, metadata, out_of_band_amount, reason } = given
  const earlier = [...state.creditNotes.values()].filter((note) => note.invoice === invoice.id).length
  return {
    ...nulls('customer_account customer_balance_transaction shipping_cost voided_at'),
    id,
    object: 'credit_note',
    amount: total,
    amount_shipping: 0,
    created: state.now(),
    currency: invoice.currency,
    customer: invoice.customer ?? '',
    discount_amount: discount,
    discount_amounts,
    effective_at: state.now(),
    invoice: invoice.id,
    lines: listOf(`/v1/credit_notes/${id}/lines`, lines),
    livemode: false,
    memo,
    metadata,
    number: `${invoice.number}-CN-${String(earlier + 1).padStart(2, '0')}`,
    out_of_band_amount: out_of_band_amount === 0 ? null : out_of_band_amount,
    pdf: `${state.url}/i/${invoice.id}/credit/${id}`,
    post_payment_amount: total - pre,
    pre_payment_amount: pre,
    pretax_credit_amounts: discount_amounts.map((taken) => ({ ...taken, type: 'discount' })),
    reason,
    refunds,
    status: 'issued',
    subtotal,
    subtotal_excluding_tax: subtotal - inclusive,
    total,
    total_excluding_tax: excluding,
    total_taxes: taxTotals(taxes),
    type: pre === total ? 'pre_payment' : pre === 0 ? 'post_payment' : 'mixed',
  }
}
