/** What an invoice adds up to: the discounts and taxes of each line, and the sums of them that Stripe shows. */
import { ofPercent, spread, sum } from './shares.ts'
import type { State } from './state.ts'
import { isSettled, taxesOf, taxRatesOf } from './taxes.ts'
import type { Coupon, Invoice, InvoiceLine } from './wire.ts'

/** Puts lines on an invoice, with what discounts and taxes make of them. */
export function fill(state: State, invoice: Invoice, lines: InvoiceLine[]): void {
  invoice.lines.data = lines.map((line) => ({ ...line, invoice: invoice.id }))
  discountLines(state, invoice)
  for (const line of invoice.lines.data)
    line.taxes = taxesOf(state, line.amount - discountOf(line), taxRatesOf(state, invoice, line), invoice)
  addUp(state, invoice)
}

export const discountOf = ({ discount_amounts }: Pick<InvoiceLine, 'discount_amounts'>) =>
  sum((discount_amounts ?? []).map(({ amount }) => amount))

/** Those of a line come before those of the whole invoice. What a proration is discounted by was settled when it was made. */
function discountLines(state: State, invoice: Invoice): void {
  const { data } = invoice.lines
  for (const line of data) if (!isSettled(line)) line.discount_amounts = []
  const open = data.filter((line) => line.discountable && !isSettled(line))
  for (const line of open) for (const id of line.discounts) take(state, id, [line])
  for (const id of invoice.discounts) take(state, id, open)
  for (const line of data)
    line.pretax_credit_amounts = (line.discount_amounts ?? []).map((taken) => ({ ...taken, type: 'discount' as const }))
}

function take(state: State, discount: string, lines: InvoiceLine[]): void {
  const coupon = state.coupons.get(state.discounts.get(discount)?.source.coupon ?? '')
  if (!coupon) return
  const covered = lines.filter((line) => covers(coupon, line))
  const left = covered.map((line) => Math.max(0, line.amount - discountOf(line)))
  const amounts =
    coupon.percent_off === null
      ? spread(Math.min(coupon.amount_off ?? 0, sum(left)), left)
      : left.map((amount) => ofPercent(amount, coupon.percent_off ?? 0))
  for (const [i, line] of covered.entries())
    line.discount_amounts = [...(line.discount_amounts ?? []), { amount: amounts[i] ?? 0, discount }]
}

const covers = ({ applies_to }: Coupon, { pricing }: InvoiceLine) =>
  applies_to === undefined || applies_to.products.includes(pricing?.price_details?.product ?? '')

function addUp(state: State, invoice: Invoice): void {
  const { data } = invoice.lines
  const net = data.map((line) => line.amount - ownDiscount(line))
  const taxes = data.flatMap((line) => line.taxes ?? [])
  const taxed = (behavior: string) =>
    sum(taxes.filter(({ tax_behavior }) => tax_behavior === behavior).map(({ amount }) => amount))
  const undiscounted = data.map((line, i) =>
    sum(
      taxesOf(state, net[i] ?? 0, taxRatesOf(state, invoice, line), invoice)
        .filter(({ tax_behavior }) => tax_behavior === 'inclusive')
        .map(({ amount }) => amount),
    ),
  )
  invoice.subtotal = sum(net)
  invoice.subtotal_excluding_tax = invoice.subtotal - sum(undiscounted)
  invoice.total = sum(data.map((line) => line.amount - discountOf(line))) + taxed('exclusive')
  invoice.total_excluding_tax = invoice.total - taxed('exclusive') - taxed('inclusive')
  invoice.total_discount_amounts = totals(data.flatMap(({ discount_amounts }) => discount_amounts ?? []))
  invoice.total_pretax_credit_amounts = invoice.total_discount_amounts.map((taken) => ({ ...taken, type: 'discount' }))
  invoice.total_taxes = taxTotals(taxes)
  // A negative balance is credit of the customer's.
  invoice.amount_due = Math.max(0, invoice.total + invoice.starting_balance)
  invoice.amount_remaining = invoice.amount_due
}

/** Discounts of the line itself are in the subtotal already. */
const ownDiscount = (line: InvoiceLine) =>
  isSettled(line)
    ? 0
    : sum(
        (line.discount_amounts ?? []).filter(({ discount }) => line.discounts.includes(discount)).map((o) => o.amount),
      )

type Taken = { amount: number; discount: string }

export const totals = (taken: Taken[]): Taken[] =>
  [...Map.groupBy(taken, ({ discount }) => discount)].map(([discount, amounts]) => ({
    discount,
    amount: sum(amounts.map(({ amount }) => amount)),
  }))

type Tax = NonNullable<InvoiceLine['taxes']>[number]

export const taxTotals = (taxes: Tax[]): Tax[] =>
  [...Map.groupBy(taxes, (tax) => `${tax.tax_rate_details?.tax_rate} ${tax.taxability_reason}`).values()].flatMap(
    ([first, ...rest]) =>
      first === undefined
        ? []
        : [
            {
              ...first,
              amount: sum([first, ...rest].map(({ amount }) => amount)),
              taxable_amount: sum([first, ...rest].map(({ taxable_amount }) => taxable_amount ?? 0)),
            },
          ],
  )
