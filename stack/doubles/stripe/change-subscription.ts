/** What is changed of a running subscription: its items, with prorations; its end, planned or taken back; going on after a pause. */

import { newSubscriptionItem, type Period, planOf } from './catalogue.ts'
import { change, emit } from './events.ts'
import { draftInvoice, finalize, newLine } from './invoices.ts'
import { tryInvoice } from './pay-invoice.ts'
import { cardOf } from './payments.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'
import { itemLine, nextBoundary, nextRenewal, periodOf, planAhead } from './subscribe.ts'
import { isOver } from './subscription-status.ts'
import type { InvoiceLine, Price, Subscription, SubscriptionItem } from './wire.ts'
import { productName } from './words.ts'

type ItemChange = {
  id?: string | undefined
  price?: Price
  quantity?: number | undefined
  deleted?: boolean | undefined
}
type Proration = 'create_prorations' | 'always_invoice' | 'none'

/** Changes items now. The unused rest of the old ones is credit, the rest of the period of the new ones is charged. */
export function changeItems(
  state: State,
  subscription: Subscription,
  changes: ItemChange[],
  proration: Proration,
): void {
  if (isOver(subscription)) throw invalid('A canceled subscription can only be told another metadata.')
  const before = structuredClone(subscription.items)
  const latest_invoice = subscription.latest_invoice
  const lines = changes.flatMap((given) => changeItem(state, subscription, given))
  if (subscription.items.data.length === 0) throw invalid('A subscription needs at least one item.', { param: 'items' })
  // Without prorations a new period is still charged in full.
  const charged = lines.filter((line) => line.amount !== 0 && (proration !== 'none' || !isProration(line)))
  const billsNow = proration === 'always_invoice' || charged.some((line) => !isProration(line))
  if (subscription.status !== 'trialing') {
    addLines(state, subscription, charged)
    if (billsNow) invoiceNow(state, subscription)
  }
  emit(state, 'customer.subscription.updated', subscription, { previous: { items: before, latest_invoice } })
  planAhead(state, subscription)
}

const isProration = ({ parent }: InvoiceLine) => parent?.subscription_item_details?.proration ?? true

function addLines(state: State, { id }: Subscription, lines: InvoiceLine[]): void {
  state.pendingLines.set(id, [...(state.pendingLines.get(id) ?? []), ...lines])
}

function invoiceNow(state: State, subscription: Subscription): void {
  if (!state.pendingLines.get(subscription.id)?.length) return
  const period = { start: state.now(), end: state.now() }
  const invoice = draftInvoice(state, subscription, { reason: 'subscription_update', lines: [], period })
  finalize(state, invoice)
  if (invoice.amount_due > 0) tryInvoice(state, invoice, cardOf(state, subscription))
}

/** Changes one item and answers the lines that this costs. */
function changeItem(state: State, subscription: Subscription, given: ItemChange): InvoiceLine[] {
  const { data } = subscription.items
  if (given.price && given.price.currency !== subscription.currency)
    throw invalid('All items of a subscription have the same currency.', { param: 'items' })
  const item = data.find(({ id }) => id === given.id)
  if (given.id !== undefined && !item)
    throw invalid(`No such subscription item: '${given.id}'`, { code: 'resource_missing', param: 'items' })
  if (!item) return addItem(state, subscription, given)
  const credit = proratedLine(state, subscription, item, -1)
  if (given.deleted) {
    subscription.items.data = data.filter((other) => other !== item)
    return [credit]
  }
  const old = item.price
  item.quantity = given.quantity ?? item.quantity ?? 1
  if (given.price) Object.assign(item, { price: given.price, plan: planOf(given.price) })
  if (isSameInterval(old, item.price)) return [credit, proratedLine(state, subscription, item, 1)]
  // Another interval begins a new period today, in full.
  const now = state.now()
  if (subscription.status !== 'trialing') {
    subscription.billing_cycle_anchor = now
    item.current_period_start = now
    item.current_period_end = nextBoundary(now, now, item.price)
  }
  return [credit, itemLine(state, subscription, item)]
}

const isSameInterval = (a: Price, b: Price) =>
  a.recurring?.interval === b.recurring?.interval && a.recurring?.interval_count === b.recurring?.interval_count

function addItem(state: State, subscription: Subscription, { price, quantity = 1 }: ItemChange): InvoiceLine[] {
  if (!price) throw invalid('A new item needs a price.', { code: 'parameter_missing', param: 'items[0][price]' })
  const now = state.now()
  const first = subscription.items.data[0]
  // The same interval joins the period that runs; another one has periods of its own from today.
  const joins = first && isSameInterval(first.price, price)
  const period: Period = joins ? periodOf(first) : { start: now, end: nextBoundary(now, now, price) }
  const item = newSubscriptionItem(state, { subscription: subscription.id, price, quantity, period })
  subscription.items.data.push(item)
  return [joins ? proratedLine(state, subscription, item, 1) : itemLine(state, subscription, item)]
}

/**
 * That part of the whole of an amount: exact until it is rounded once, half a unit away from zero, as Stripe rounds each line
 * of an invoice.
 * @internal For tests: the shares of thousands of amounts.
 */
export function shareOf(amount: number, part: number, whole: number): number {
  const [doubled, divisor] = [2n * BigInt(amount) * BigInt(part), BigInt(whole)]
  return Number((doubled + (doubled < 0n ? -divisor : divisor)) / (2n * divisor))
}

/** The part of an item's price for what is left of its period: 1 charges it, -1 gives it back. */
function proratedLine(state: State, subscription: Subscription, item: SubscriptionItem, sign: 1 | -1): InvoiceLine {
  const { start, end } = periodOf(item)
  const now = state.now()
  const quantity = item.quantity ?? 1
  const whole = (item.price.unit_amount ?? 0) * quantity
  const amount = sign * shareOf(whole, Math.max(0, end - now), end - start)
  const description = `${sign < 0 ? 'Unused' : 'Remaining'} time on ${quantity} × ${productName(state, item.price)}`
  const period = { start: now, end }
  const { id: subscriptionId, metadata } = subscription
  return newLine({
    subscription: subscriptionId,
    item: item.id,
    price: item.price,
    quantity,
    amount,
    period,
    description,
    proration: true,
    metadata,
  })
}

type Ending = { cancel_at_period_end?: boolean; cancel_at?: number | null }

/** Ends it later, or takes that back. */
export function planEnd(state: State, subscription: Subscription, { cancel_at_period_end, cancel_at }: Ending): void {
  if (isOver(subscription)) throw invalid('This subscription has ended already.')
  const atEnd = cancel_at_period_end ?? (cancel_at === undefined ? subscription.cancel_at_period_end : false)
  const at = cancel_at === undefined ? (atEnd ? nextRenewal(subscription) : null) : cancel_at
  const ends = atEnd || at !== null
  change(state, 'customer.subscription.updated', subscription, {
    cancel_at_period_end: atEnd,
    cancel_at: at,
    canceled_at: ends ? (subscription.canceled_at ?? state.now()) : null,
    cancellation_details: {
      comment: null,
      feedback: null,
      feedback_option: null,
      reason: ends ? 'cancellation_requested' : null,
    },
  })
  planAhead(state, subscription)
}

/** Goes on after a trial that ended without a card: a new period from now. */
export function resume(state: State, subscription: Subscription): void {
  if (subscription.status !== 'paused') throw invalid('Only a paused subscription can be resumed.')
  const now = state.now()
  subscription.billing_cycle_anchor = now
  for (const item of subscription.items.data) {
    item.current_period_start = now
    item.current_period_end = nextBoundary(now, now, item.price)
  }
  const lines = subscription.items.data.map((item) => itemLine(state, subscription, item))
  const invoice = draftInvoice(state, subscription, {
    reason: 'subscription_cycle',
    lines,
    period: { start: now, end: now },
  })
  finalize(state, invoice)
  change(state, 'customer.subscription.updated', subscription, { status: 'active' })
  emit(state, 'customer.subscription.resumed', subscription)
  if (invoice.amount_due > 0) tryInvoice(state, invoice, cardOf(state, subscription))
  planAhead(state, subscription)
}
