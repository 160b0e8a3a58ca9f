/** Products, prices and lines of a checkout, in full. */
import type { State } from './state.ts'
import {
  type LineItem,
  type Metadata,
  newId,
  nulls,
  type Price,
  type Product,
  type SubscriptionItem,
  type TaxRate,
} from './wire.ts'

export const newProduct = (
  state: State,
  given: { id?: string | undefined; name: string; description: string | null; metadata: Metadata; active: boolean },
): Product => ({
  ...nulls('default_price package_dimensions shippable statement_descriptor tax_code tax_details unit_label'),
  ...nulls('url'),
  id: given.id ?? newId('prod', 14),
  object: 'product',
  active: given.active,
  created: state.now(),
  description: given.description,
  images: [],
  livemode: false,
  marketing_features: [],
  metadata: given.metadata,
  name: given.name,
  type: 'service',
  updated: state.now(),
})

type Interval = 'day' | 'week' | 'month' | 'year'
type NewPrice = {
  product: string
  currency: string
  unit_amount: number
  recurring: { interval: Interval; interval_count: number } | null
  lookup_key: string | null
  nickname: string | null
  metadata: Metadata
  active: boolean
}

export const newPrice = (state: State, given: NewPrice): Price => ({
  ...nulls('custom_unit_amount tiers_mode transform_quantity'),
  id: newId('price_1', 23),
  object: 'price',
  active: given.active,
  billing_scheme: 'per_unit',
  created: state.now(),
  currency: given.currency,
  livemode: false,
  lookup_key: given.lookup_key,
  metadata: given.metadata,
  nickname: given.nickname,
  product: given.product,
  recurring: given.recurring && { ...given.recurring, meter: null, trial_period_days: null, usage_type: 'licensed' },
  tax_behavior: 'unspecified',
  type: given.recurring ? 'recurring' : 'one_time',
  unit_amount: given.unit_amount,
  unit_amount_decimal: String(given.unit_amount),
})

export const newLineItem = (price: Price, quantity: number, description: string, total: number): LineItem => ({
  id: newId('li_1', 23),
  object: 'item',
  adjustable_quantity: null,
  amount_discount: 0,
  amount_subtotal: total,
  amount_tax: 0,
  amount_total: total,
  currency: price.currency,
  description,
  metadata: {},
  price,
  quantity,
})

export type Period = { start: number; end: number }

type NewItem = { subscription: string; price: Price; quantity: number; period: Period; tax_rates?: TaxRate[] }

export const newSubscriptionItem = (
  state: State,
  { subscription, price, quantity, period, tax_rates = [] }: NewItem,
): SubscriptionItem => ({
  id: newId('si', 14),
  object: 'subscription_item',
  billing_thresholds: null,
  created: state.now(),
  current_period_end: period.end,
  current_period_start: period.start,
  current_trial: null,
  discounts: [],
  metadata: {},
  plan: planOf(price),
  price,
  quantity,
  subscription,
  tax_rates,
})

/** The older form of a price, which items still carry. */
export const planOf = (price: Price): SubscriptionItem['plan'] => ({
  ...nulls('meter tiers_mode transform_usage trial_period_days'),
  id: price.id,
  object: 'plan',
  active: price.active,
  amount: price.unit_amount,
  amount_decimal: price.unit_amount_decimal,
  billing_scheme: 'per_unit',
  created: price.created,
  currency: price.currency,
  interval: price.recurring?.interval ?? 'month',
  interval_count: price.recurring?.interval_count ?? 1,
  livemode: false,
  metadata: price.metadata,
  nickname: price.nickname,
  product: price.product,
  usage_type: 'licensed',
})
