/** What a line of an invoice looks like. */
import { type InvoiceLine, newId, type Price } from './wire.ts'

type NewLine = Pick<
  InvoiceLine,
  | 'amount'
  | 'currency'
  | 'description'
  | 'discount_amounts'
  | 'discountable'
  | 'discounts'
  | 'metadata'
  | 'parent'
  | 'period'
  | 'pricing'
  | 'quantity'
  | 'subscription'
>

export const newLine = (given: NewLine): InvoiceLine => ({
  ...given,
  id: newId('il_1', 23),
  object: 'line_item',
  invoice: null,
  livemode: false,
  pretax_credit_amounts: [],
  quantity_decimal: given.quantity === null ? null : String(given.quantity),
  subtotal: given.amount,
  taxes: [],
})

export const pricingOf = (price: Price): NonNullable<InvoiceLine['pricing']> => ({
  price_details: { price: price.id, product: price.product },
  type: 'price_details',
  unit_amount_decimal: price.unit_amount_decimal,
})
