/** Taxes by rates of one's own: those in the price, and those on top of it. */
import { shareOf, sum } from './shares.ts'
import type { State } from './state.ts'
import { type Invoice, type InvoiceLine, type Metadata, newId, nulls, type TaxRate } from './wire.ts'

export const isProration = ({ parent }: Pick<InvoiceLine, 'parent'>) =>
  (parent?.subscription_item_details ?? parent?.invoice_item_details)?.proration ?? false

/** Made of an invoice item: what it costs was settled when that was made. */
export const isSettled = (line: Pick<InvoiceLine, 'parent'>) =>
  isProration(line) && line.parent?.subscription_item_details?.invoice_item !== null

/** The rates of the item that a line is of, else those of the whole invoice. */
export function taxRatesOf(state: State, invoice: Invoice, { parent }: InvoiceLine): TaxRate[] {
  const { subscription_item_details: recurring, invoice_item_details: once } = parent ?? {}
  const item = state.invoiceItems.get(recurring?.invoice_item ?? once?.invoice_item ?? '')
  const subscribed = state.subscriptions
    .get(recurring?.subscription ?? '')
    ?.items.data.find(({ id }) => id === recurring?.subscription_item)
  for (const rates of [item?.tax_rates, subscribed?.tax_rates]) if (rates && rates.length > 0) return rates
  return invoice.default_tax_rates
}

type Tax = NonNullable<InvoiceLine['taxes']>[number]

const scaled = ({ percentage }: TaxRate) => Math.round(percentage * 10_000)

/** Taxes that are in the price are taken out of it first; those on top are a part of what is left. */
export function taxesOf(
  state: State,
  amount: number,
  rates: TaxRate[],
  { customer, customer_tax_exempt }: Pick<Invoice, 'customer' | 'customer_tax_exempt'>,
): Tax[] {
  const known = state.customers.get(customer ?? '')
  const exempt = customer_tax_exempt ?? (known && !known.deleted ? known.tax_exempt : 'none')
  const free = exempt === 'exempt' || exempt === 'reverse'
  const inclusive = rates.filter((rate) => rate.inclusive)
  const whole = 1_000_000 + sum(inclusive.map(scaled))
  const inside = inclusive.map((rate) => (free ? 0 : shareOf(amount, scaled(rate), whole)))
  const taxable = amount - sum(inside)
  const reason = exempt === 'exempt' ? 'customer_exempt' : exempt === 'reverse' ? 'reverse_charge' : 'standard_rated'
  const tax = (rate: TaxRate, taken: number): Tax => ({
    amount: taken,
    tax_behavior: rate.inclusive ? 'inclusive' : 'exclusive',
    tax_rate_details: { tax_rate: rate.id },
    taxability_reason: reason,
    taxable_amount: free ? 0 : taxable,
    type: 'tax_rate_details',
  })
  const onTop = rates.filter((rate) => !rate.inclusive)
  return [
    ...inclusive.map((rate, i) => tax(rate, inside[i] ?? 0)),
    ...onTop.map((rate) => tax(rate, free ? 0 : shareOf(taxable, scaled(rate), 1_000_000))),
  ]
}

type NewTaxRate = {
  display_name: string
  percentage: number
  inclusive: boolean
  active: boolean
  country: string | null
  state: string | null
  jurisdiction: string | null
  description: string | null
  tax_type: TaxRate['tax_type']
  metadata: Metadata
}

export const newTaxRate = (state: State, given: NewTaxRate): TaxRate => ({
  ...nulls('flat_amount jurisdiction_level'),
  ...given,
  id: newId('txr_1', 23),
  object: 'tax_rate',
  created: state.now(),
  effective_percentage: given.percentage,
  livemode: false,
  rate_type: 'percentage',
})
