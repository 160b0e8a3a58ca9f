/** Money that goes back: refunds, which may fail later, and disputes, which the bank decides. */
import { asOf } from './due.ts'
import { change, emit } from './events.ts'
import { settleMoney } from './money.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { type Charge, type Dispute, type Metadata, newId, nulls, type Refund } from './wire.ts'

type NewRefund = { amount: number | undefined; reason: Refund['reason']; metadata: Metadata }

export function chargeOfIntent(state: State, intent: string): Charge {
  const charge = state.charges.get(state.intents.get(intent)?.latest_charge ?? '')
  if (charge?.status !== 'succeeded') throw invalid('This payment intent has no charge that succeeded.')
  return charge
}

export function refund(state: State, charge: Charge, given: NewRefund): Refund {
  const left = charge.amount - charge.amount_refunded
  if (isContested(state, charge))
    throw invalid('A charge that is disputed cannot be refunded.', { code: 'charge_disputed' })
  if (left <= 0) throw invalid('This charge has been refunded already.', { code: 'charge_already_refunded' })
  const amount = given.amount ?? left
  if (amount <= 0 || amount > left)
    throw invalid(`A refund of ${amount} is not between 1 and what is left (${left}).`, { param: 'amount' })
  const made = asOf(state, charge.customer, () => newRefund(state, charge, { ...given, amount }))
  const type = charge.payment_intent !== null && charge.id.startsWith('py_') ? 'payment_refund' : 'refund'
  made.balance_transaction = settleMoney(state, { ...made, amount: -amount, type, source: made.id }).id
  state.refunds.set(made.id, made)
  emit(state, 'refund.created', made)
  moveCharge(state, charge, amount)
  return made
}

/** While a bank holds the money there is nothing to give back. */
const isContested = (state: State, { id }: Charge) =>
  [...state.disputes.values()].some(({ charge, status }) => charge === id && (takesMoney(status) || status === 'lost'))

/** Says by an event what is refunded now; a refund that failed is taken off again, without one. */
function moveCharge(state: State, charge: Charge, amount: number): void {
  const { amount_refunded, refunded } = charge
  charge.amount_refunded += amount
  charge.refunded = charge.amount_refunded === charge.amount
  if (amount > 0) emit(state, 'charge.refunded', charge, { previous: { amount_refunded, refunded } })
}

const isDead = ({ status }: Refund) => status === 'failed' || status === 'canceled'

export function moveRefund(state: State, moved: Refund, status: NonNullable<Refund['status']>): Refund {
  if (isDead(moved)) throw invalid(`This refund has ${moved.status} already.`)
  const previous = { status: moved.status }
  moved.status = status
  if (status === 'failed') moved.failure_reason = 'expired_or_canceled_card'
  const charge = state.charges.get(moved.charge ?? '')
  if (isDead(moved))
    moved.failure_balance_transaction = settleMoney(state, { ...moved, type: 'refund_failure', source: moved.id }).id
  if (charge && isDead(moved)) moveCharge(state, charge, -moved.amount)
  emit(state, 'refund.updated', moved, { previous })
  emit(state, 'charge.refund.updated', moved, { previous })
  if (status === 'failed') emit(state, 'refund.failed', moved)
  return moved
}

type NewDispute = {
  /** In the dispute's own currency, which may be another than the charge's. */
  amount: number | undefined
  currency: string | undefined
  /** How much of the charge that is, where the currencies differ. */
  charged: number | undefined
  reason: string
  status: Dispute['status']
}

const disputeFee = 1500

export function dispute(state: State, charge: Charge, given: NewDispute): Dispute {
  const { currency = charge.currency, reason, status } = given
  const isForeign = currency !== charge.currency
  if (isForeign && (given.amount === undefined || given.charged === undefined))
    throw invalid('A dispute in another currency says its amount, and how much of the charge that is.', {
      param: 'charged',
    })
  const amount = given.amount ?? charge.amount
  const charged = isForeign ? (given.charged ?? 0) : amount
  if (amount <= 0 || charged <= 0 || charged > charge.amount)
    throw invalid('The amount is more than was charged.', { param: 'amount' })
  const made = asOf(state, charge.customer, () => newDispute(state, charge, { amount, currency, reason, status }))
  charge.disputed = true
  state.disputes.set(made.id, made)
  state.disputedParts.set(made.id, charged)
  emit(state, 'charge.dispute.created', made)
  if (takesMoney(status)) moveMoney(state, made, -1)
  return made
}

/** The bank takes the part of the charge, or brings it back. */
function moveMoney(state: State, moved: Dispute, sign: 1 | -1): void {
  const currency = state.charges.get(moved.charge)?.currency ?? moved.currency
  const amount = sign * (state.disputedParts.get(moved.id) ?? moved.amount)
  const fee = sign < 0 ? disputeFee : 0
  const entry = settleMoney(state, { amount, currency, type: 'adjustment', source: moved.id, fee })
  // The list holds the whole objects, as they stand.
  moved.balance_transactions.push(entry)
  emit(state, sign < 0 ? 'charge.dispute.funds_withdrawn' : 'charge.dispute.funds_reinstated', moved)
}

const isAppeal = (status: Dispute['status']) => status === 'appeal_needs_response' || status === 'appeal_under_review'
const takesMoney = (status: Dispute['status']) =>
  status === 'needs_response' || status === 'under_review' || isAppeal(status)
const closed = ['won', 'lost', 'warning_closed', 'prevented']

/** What is lost may be appealed, and a bank decides again. */
function refuseMove({ status: from }: Dispute, to: Dispute['status']): void {
  if (isAppeal(to) && from !== 'lost' && !isAppeal(from)) throw invalid('Only a dispute that is lost can be appealed.')
  if (isAppeal(from) && !isAppeal(to) && to !== 'won' && to !== 'lost')
    throw invalid('This dispute is appealed: it is won or lost.')
  if (closed.includes(from) && !isAppeal(to)) throw invalid(`This dispute is ${from} already.`)
}

/** An inquiry that becomes a dispute takes the money then; one that is won brings it back. */
export function moveDispute(state: State, moved: Dispute, status: Dispute['status']): Dispute {
  refuseMove(moved, status)
  const hadMoney = takesMoney(moved.status) || moved.status === 'lost'
  change(state, closed.includes(status) ? 'charge.dispute.closed' : 'charge.dispute.updated', moved, { status })
  moved.is_charge_refundable = status.startsWith('warning_')
  if (!hadMoney && takesMoney(status)) moveMoney(state, moved, -1)
  if (hadMoney && status === 'won') moveMoney(state, moved, 1)
  return moved
}

const newRefund = (
  state: State,
  charge: Charge,
  given: { amount: number; reason: Refund['reason']; metadata: Metadata },
): Refund => ({
  ...nulls('balance_transaction customer_account payment_method receipt_number source_transfer_reversal'),
  ...nulls('transfer_reversal'),
  id: newId('re_3', 23),
  object: 'refund',
  amount: given.amount,
  charge: charge.id,
  created: state.now(),
  currency: charge.currency,
  customer: charge.customer,
  metadata: given.metadata,
  payment_intent: charge.payment_intent,
  reason: given.reason,
  status: state.settings.refund_status,
})

const newDispute = (
  state: State,
  charge: Charge,
  given: { amount: number; currency: string; reason: string; status: Dispute['status'] },
): Dispute => ({
  id: newId('du_1', 23),
  object: 'dispute',
  amount: given.amount,
  balance_transactions: [],
  charge: charge.id,
  created: state.now(),
  currency: given.currency,
  enhanced_eligibility_types: [],
  evidence: noEvidence,
  evidence_details: {
    due_by: state.now() + 7 * 86_400,
    enhanced_eligibility: {},
    has_evidence: false,
    past_due: false,
    submission_count: 0,
    submission_method: 'not_submitted',
  },
  intended_submission_method: null,
  is_charge_refundable: given.status.startsWith('warning_'),
  livemode: false,
  metadata: {},
  payment_intent: charge.payment_intent,
  reason: given.reason,
  status: given.status,
})

const noEvidence = {
  ...nulls('access_activity_log billing_address cancellation_policy cancellation_policy_disclosure'),
  ...nulls('cancellation_rebuttal customer_communication customer_email_address customer_name'),
  ...nulls('customer_purchase_ip customer_signature duplicate_charge_documentation'),
  ...nulls('duplicate_charge_explanation duplicate_charge_id product_description receipt refund_policy'),
  ...nulls('refund_policy_disclosure refund_refusal_explanation service_date service_documentation'),
  ...nulls('shipping_address shipping_carrier shipping_date shipping_documentation shipping_tracking_number'),
  ...nulls('uncategorized_file uncategorized_text'),
  enhanced_evidence: {},
} satisfies Dispute['evidence']
