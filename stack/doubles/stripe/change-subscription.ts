/** What is changed of a running subscription: its items, with prorations; its end, planned or taken back; going on after a pause. */

import { nextBoundary } from './calendar.ts'
import { newSubscriptionItem, planOf } from './catalogue.ts'
import { customerOf } from './customers.ts'
import { discountsOf, type Wanted } from './discounts.ts'
import { change, emit } from './events.ts'
import { cannotFinalize, collect, failureFor, finalize } from './finalize.ts'
import { holdUpdate } from './hold-update.ts'
import { addItem } from './invoice-items.ts'
import { draftInvoice } from './invoices.ts'
import { cardOf } from './payments.ts'
import { nextRenewal, planAhead } from './plan-ahead.ts'
import { creditFor, debitFor } from './prorate.ts'
import { invalid, Refusal } from './refusals.ts'
import { sum } from './shares.ts'
import type { State } from './state.ts'
import { itemLine } from './subscription-lines.ts'
import { endSubscription, isOver } from './subscription-status.ts'
import type { InvoiceItem, InvoiceLine, Price, Subscription, TaxRate } from './wire.ts'

type ItemChange = {
  id?: string | undefined
  price?: Price
  quantity?: number | undefined
  deleted?: boolean | undefined
  tax_rates?: TaxRate[] | undefined
  discounts?: Wanted[] | undefined
}
type How = {
  proration: 'create_prorations' | 'always_invoice' | 'none'
  /** What becomes of a change that has to be paid for and is not. */
  behavior: 'allow_incomplete' | 'default_incomplete' | 'error_if_incomplete' | 'pending_if_incomplete'
  /** Every item begins a new period today. */
  resets?: boolean
  extras?: InvoiceItem[]
}

/** What a change costs: prorations, which may wait for the next invoice, and periods that begin now. */
type Cost = { prorations: InvoiceItem[]; lines: InvoiceLine[] }

/** Changes items now. The unused rest of the old ones is credit, the rest of the period of the new ones is charged. */
export function changeItems(state: State, subscription: Subscription, changes: ItemChange[], how: How): void {
  if (isOver(subscription)) throw invalid('A canceled subscription can only be told another metadata.')
  const next = structuredClone(subscription)
  const costs = changes.map((given) => changeItem(state, next, given))
  if (how.resets) costs.push(...next.items.data.map((item) => restart(state, next, item)))
  if (next.items.data.length === 0) throw invalid('A subscription needs at least one item.', { param: 'items' })
  // Without prorations a new period is still charged in full.
  const prorations = how.proration === 'none' ? [] : costs.flatMap((cost) => cost.prorations)
  const cost = {
    prorations: [...prorations.filter(({ amount }) => amount !== 0), ...(how.extras ?? [])],
    lines: costs.flatMap(({ lines }) => lines),
  }
  const isFree = subscription.status === 'trialing'
  const billsNow = !isFree && (how.proration === 'always_invoice' || cost.lines.length > 0)
  if (billsNow) refuseUnpaid(state, next, cost, how)
  if (billsNow && how.behavior === 'pending_if_incomplete' && !isPaid(state, next, cost)) {
    holdUpdate(state, subscription, next, cost)
    return
  }
  const { items: before, latest_invoice } = subscription
  subscription.items = next.items
  subscription.billing_cycle_anchor = next.billing_cycle_anchor
  if (!isFree) for (const item of cost.prorations) addItem(state, item)
  if (billsNow) invoiceNow(state, subscription, cost.lines, how)
  emit(state, 'customer.subscription.updated', subscription, { previous: { items: before, latest_invoice } })
  planAhead(state, subscription)
}

/** Before anything is changed: what cannot be finalised, and what has to be paid at once and is not. */
function refuseUnpaid(state: State, next: Subscription, cost: Cost, { behavior }: How): void {
  const failure = failureFor(state, next.customer)
  if (failure) throw cannotFinalize(failure)
  if (behavior !== 'error_if_incomplete' || isPaid(state, next, cost)) return
  throw new Refusal(402, 'Your card was declined.', {
    type: 'card_error',
    code: 'card_declined',
    decline_code: 'generic_decline',
  })
}

/** Whether what it costs now is nothing, or is paid by the card as it answers now. */
function isPaid(state: State, next: Subscription, { prorations, lines }: Cost): boolean {
  const due = sum([...prorations, ...lines].map(({ amount }) => amount))
  return due + customerOf(state, next.customer).balance <= 0 || cardOf(state, next) === 'ok'
}

function invoiceNow(state: State, subscription: Subscription, lines: InvoiceLine[], { behavior }: How): void {
  const period = { start: state.now(), end: state.now() }
  const waits = state.waitingItems.get(subscription.customer) ?? []
  if (lines.length === 0 && waits.length === 0) return
  const invoice = draftInvoice(state, subscription, { reason: 'subscription_update', lines, period })
  if (subscription.pause_collection?.behavior === 'keep_as_draft') {
    invoice.auto_advance = false
    return
  }
  finalize(state, invoice)
  if (behavior !== 'default_incomplete') collect(state, invoice, cardOf(state, subscription))
}

/** Changes one item and answers what this costs. */
function changeItem(state: State, subscription: Subscription, given: ItemChange): Cost {
  const { data } = subscription.items
  if (given.price && given.price.currency !== subscription.currency)
    throw invalid('All items of a subscription have the same currency.', { param: 'items' })
  const item = data.find(({ id }) => id === given.id)
  if (given.id !== undefined && !item)
    throw invalid(`No such subscription item: '${given.id}'`, { code: 'resource_missing', param: 'items' })
  if (!item) return newItem(state, subscription, given)
  const credit = creditFor(state, subscription, item)
  if (given.deleted) {
    subscription.items.data = data.filter((other) => other !== item)
    return { prorations: [credit], lines: [] }
  }
  const old = item.price
  const isSame = (given.quantity ?? item.quantity) === item.quantity && (given.price?.id ?? old.id) === old.id
  item.quantity = given.quantity ?? item.quantity ?? 1
  if (given.price) Object.assign(item, { price: given.price, plan: planOf(given.price) })
  if (given.tax_rates) item.tax_rates = given.tax_rates
  if (given.discounts) {
    const owner = { customer: subscription.customer, subscription: subscription.id, subscription_item: item.id }
    item.discounts = discountsOf(state, given.discounts, owner, subscription.currency)
  }
  if (isSame) return { prorations: [], lines: [] }
  if (isSameInterval(old, item.price)) return { prorations: [credit, debitFor(state, subscription, item)], lines: [] }
  // Another interval of the only item begins a new period today, in full; beside others it keeps to the anchor.
  if (subscription.items.data.length === 1)
    return { prorations: [credit], lines: beginToday(state, subscription, item) }
  const joined = join(state, subscription, item)
  return { prorations: [credit, ...joined.prorations], lines: joined.lines }
}

type Item = Subscription['items']['data'][number]

function beginToday(state: State, subscription: Subscription, item: Item): InvoiceLine[] {
  const now = state.now()
  if (subscription.status !== 'trialing') {
    subscription.billing_cycle_anchor = now
    item.current_period_start = now
    item.current_period_end = nextBoundary(now, now, item.price)
  }
  return [itemLine(state, subscription, item)]
}

function restart(state: State, subscription: Subscription, item: Item): Cost {
  return { prorations: [creditFor(state, subscription, item)], lines: beginToday(state, subscription, item) }
}

const isSameInterval = (a: Price, b: Price) =>
  a.recurring?.interval === b.recurring?.interval && a.recurring?.interval_count === b.recurring?.interval_count

function newItem(state: State, subscription: Subscription, given: ItemChange): Cost {
  const { price, quantity = 1, tax_rates = [], discounts = [] } = given
  if (!price) throw invalid('A new item needs a price.', { code: 'parameter_missing', param: 'items[0][price]' })
  const now = state.now()
  const item = newSubscriptionItem(state, {
    subscription: subscription.id,
    price,
    quantity,
    period: { start: now, end: now },
    tax_rates,
  })
  const owner = { customer: subscription.customer, subscription: subscription.id, subscription_item: item.id }
  item.discounts = discountsOf(state, discounts, owner, subscription.currency)
  subscription.items.data.push(item)
  return join(state, subscription, item)
}

/**
 * All items keep to one anchor. One of an interval that the subscription has joins the period that runs; of another one it
 * gets the period that ends at its next boundary, in part where that began before today.
 */
function join(state: State, subscription: Subscription, item: Item): Cost {
  const now = state.now()
  const like = subscription.items.data.find((other) => other !== item && isSameInterval(other.price, item.price))
  const anchor = subscription.billing_cycle_anchor
  item.current_period_start = like?.current_period_start ?? now
  item.current_period_end =
    like?.current_period_end ??
    (subscription.status === 'trialing' ? nextRenewal(subscription) : nextBoundary(anchor, now, item.price))
  const isWhole = like === undefined && nextBoundary(now, now, item.price) === item.current_period_end
  if (isWhole) return { prorations: [], lines: [itemLine(state, subscription, item)] }
  const debit = debitFor(state, subscription, item)
  if (like === undefined) item.current_period_start = now
  return { prorations: [debit], lines: [] }
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

/** Ends it now. The rest of its periods may be given back, on a last invoice or whenever the next one is made. */
export function cancel(
  state: State,
  subscription: Subscription,
  { invoice_now, prorate }: { invoice_now: boolean; prorate: boolean },
): void {
  const isCharged = prorate && subscription.status !== 'trialing'
  const credits = isCharged ? subscription.items.data.map((item) => creditFor(state, subscription, item)) : []
  if (invoice_now) {
    for (const credit of credits) addItem(state, credit)
    invoiceNow(state, subscription, [], { proration: 'always_invoice', behavior: 'allow_incomplete' })
  }
  endSubscription(state, subscription, 'cancellation_requested')
  if (!invoice_now) for (const credit of credits) addItem(state, credit)
}

/** Goes on after a trial that ended without a card: a new period from now. */
export function resume(state: State, subscription: Subscription, isOnceItIsPaid = false): void {
  if (subscription.status !== 'paused') throw invalid('Only a paused subscription can be resumed.')
  // At Stripe it would stay paused, with an invoice that can be paid by hand.
  if (isOnceItIsPaid && cardOf(state, subscription) !== 'ok')
    throw invalid('The stand-in resumes only with a card that pays.', { param: 'payment_behavior' })
  const now = state.now()
  subscription.billing_cycle_anchor = now
  for (const item of subscription.items.data) {
    item.current_period_start = now
    item.current_period_end = nextBoundary(now, now, item.price)
  }
  const lines = subscription.items.data.map((item) => itemLine(state, subscription, item))
  const period = { start: now, end: now }
  const invoice = draftInvoice(state, subscription, { reason: 'subscription_cycle', lines, period })
  finalize(state, invoice)
  change(state, 'customer.subscription.updated', subscription, { status: 'active' })
  emit(state, 'customer.subscription.resumed', subscription)
  collect(state, invoice, cardOf(state, subscription))
  planAhead(state, subscription)
}
