/** What the items of a subscription cost: a period, a trial, or the part of a period before the first full one. */

import { previousBoundary } from './calendar.ts'
import type { Period } from './catalogue.ts'
import { newLine, pricingOf } from './lines.ts'
import { shareOf } from './shares.ts'
import type { State } from './state.ts'
import type { InvoiceLine, Subscription, SubscriptionItem } from './wire.ts'
import { lineName, productName } from './words.ts'

/** How a subscription begins: where its first full period does, and what the part before that costs. */
export type Stub = { billing_cycle_anchor?: number | undefined; stub?: 'create_prorations' | 'none' }

/** In full, as a trial, or the part of a period until the anchor. */
export function firstLine(
  state: State,
  subscription: Subscription,
  item: SubscriptionItem,
  order: Stub,
): InvoiceLine[] {
  const isTrial = subscription.status === 'trialing'
  const { start, end } = periodOf(item)
  const isStub = !isTrial && order.billing_cycle_anchor !== undefined
  if (!isStub) return [itemLine(state, subscription, item, isTrial)]
  if (order.stub === 'none') return []
  const whole = (item.price.unit_amount ?? 0) * (item.quantity ?? 1)
  const natural = previousBoundary(end, item.price)
  return [
    recurringLine(subscription, item, {
      amount: shareOf(whole, end - start, end - natural),
      description: `Time on ${item.quantity} × ${productName(state, item.price)} until the first full period`,
      proration: state.settings.stub_is_proration,
    }),
  ]
}

/** What an item costs for its current period; in a trial nothing. */
export function itemLine(
  state: State,
  subscription: Subscription,
  item: SubscriptionItem,
  isTrial = false,
): InvoiceLine {
  const quantity = item.quantity ?? 1
  return recurringLine(subscription, item, {
    amount: isTrial ? 0 : (item.price.unit_amount ?? 0) * quantity,
    description: isTrial
      ? `Trial period for ${productName(state, item.price)}`
      : `${quantity} × ${lineName(state, item.price)}`,
    proration: false,
  })
}

type Part = { amount: number; description: string; proration: boolean }

function recurringLine(subscription: Subscription, item: SubscriptionItem, { proration, ...part }: Part): InvoiceLine {
  return newLine({
    ...part,
    currency: item.price.currency,
    discount_amounts: [],
    discountable: true,
    discounts: item.discounts,
    metadata: subscription.metadata,
    parent: {
      invoice_item_details: null,
      subscription_item_details: {
        invoice_item: null,
        proration,
        proration_details: { credited_items: null },
        subscription: subscription.id,
        subscription_item: item.id,
      },
      type: 'subscription_item_details',
    },
    period: periodOf(item),
    pricing: pricingOf(item.price),
    quantity: item.quantity ?? 1,
    subscription: subscription.id,
  })
}

export const periodOf = (item: SubscriptionItem): Period => ({
  start: item.current_period_start,
  end: item.current_period_end,
})
