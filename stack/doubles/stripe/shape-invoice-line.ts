/** A line of an invoice, in full. */
import { newId } from './ids.ts'
import type { Period } from './shape-catalogue.ts'
import type { InvoiceLine, Metadata, Price } from './wire.ts'

export type NewLine = {
  subscription: string
  item: string
  price: Price
  quantity: number
  amount: number
  period: Period
  description: string
  proration: boolean
  metadata: Metadata
}

export const newLine = (given: NewLine): InvoiceLine => ({
  id: newId('il_1', 23),
  object: 'line_item',
  amount: given.amount,
  currency: given.price.currency,
  description: given.description,
  discount_amounts: [],
  discountable: !given.proration,
  discounts: [],
  invoice: null,
  livemode: false,
  metadata: given.metadata,
  parent: {
    invoice_item_details: null,
    subscription_item_details: {
      invoice_item: given.proration ? newId('ii_1', 23) : null,
      proration: given.proration,
      proration_details: { credited_items: null },
      subscription: given.subscription,
      subscription_item: given.item,
    },
    type: 'subscription_item_details',
  },
  period: given.period,
  pretax_credit_amounts: [],
  pricing: {
    price_details: { price: given.price.id, product: given.price.product },
    type: 'price_details',
    unit_amount_decimal: given.price.unit_amount_decimal,
  },
  quantity: given.quantity,
  quantity_decimal: String(given.quantity),
  subscription: given.subscription,
  subtotal: given.amount,
  taxes: [],
})
