/** /v1/quotes. */
import { z } from 'zod'
import { newLineItem } from './catalogue.ts'
import { livingCustomer } from './customers.ts'
import { asOf } from './due.ts'
import { listOf, listPage } from './lists.ts'
import { discounts, expand, integer, mergeMetadata, metadata, none, page, text, unset } from './params.ts'
import { acceptQuote, cancelQuote, createQuote, finalizeQuote } from './quotes.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import type { Quote } from './wire.ts'

const path = '/v1/quotes'
const newParams = z.strictObject({
  customer: text,
  line_items: z.array(z.strictObject({ price: text, quantity: integer.pipe(z.number().min(1)).default(1) })).min(1),
  discounts,
  description: unset.or(text).optional(),
  expires_at: integer.optional(),
  metadata: metadata.optional(),
  subscription_data: z
    .strictObject({ metadata: metadata.optional(), trial_period_days: integer.pipe(z.number().min(1)).optional() })
    .optional(),
  expand,
})

export function quoteRoutes(route: Route, state: State): void {
  const find = (id: string) => need(state.quotes, 'quote', id)
  const step = (name: string, act: (state: State, quote: Quote) => Quote) =>
    route('POST', `${path}/:id/${name}`, z.strictObject({ expires_at: integer.optional(), expand }), (_, id) => {
      const quote = find(id)
      return asOf(state, quote.customer, () => act(state, quote))
    })
  route('POST', path, newParams, (given) => asOf(state, given.customer, () => create(state, given)))
  step('finalize', finalizeQuote)
  step('accept', acceptQuote)
  step('cancel', cancelQuote)
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('GET', `${path}/:id/line_items`, z.strictObject({ ...page }), ({ limit }, id) => {
    find(id)
    const items = state.quoteItems.get(id) ?? []
    return listOf(`${path}/${id}/line_items`, items.slice(0, limit), items.length > limit)
  })
  const status = z.enum(['draft', 'open', 'accepted', 'canceled']).optional()
  route('GET', path, z.strictObject({ ...page, customer: text.optional(), status }), (query) =>
    listPage(
      path,
      state.quotes.values(),
      query,
      (quote) =>
        (query.customer === undefined || quote.customer === query.customer) &&
        (query.status === undefined || quote.status === query.status),
    ),
  )
}

function create(state: State, given: z.infer<typeof newParams>): Quote {
  const customer = livingCustomer(state, given.customer, 'customer')
  const items = given.line_items.map(({ price: id, quantity }, i) => {
    const price = need(state.prices, 'price', id, `line_items[${i}][price]`)
    const name = state.products.get(price.product)?.name ?? price.id
    return newLineItem(price, quantity, name, (price.unit_amount ?? 0) * quantity)
  })
  if (new Set(items.map(({ currency }) => currency)).size > 1)
    throw invalid('All prices must have the same currency.', { param: 'line_items' })
  return createQuote(state, {
    customer,
    items,
    discounts: given.discounts ?? [],
    description: given.description ?? null,
    expires_at: given.expires_at ?? state.now() + 30 * 86_400,
    metadata: mergeMetadata({}, given.metadata),
    subscription_metadata: mergeMetadata({}, given.subscription_data?.metadata),
    trial_period_days: given.subscription_data?.trial_period_days ?? null,
  })
}
