/** /v1/tax_rates, and rates by their ids. */
import { z } from 'zod'
import { emit } from './events.ts'
import { listPage } from './lists.ts'
import { boolean, decimal, defined, expand, mergeMetadata, metadata, none, page, text } from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { newTaxRate } from './taxes.ts'
import type { TaxRate } from './wire.ts'

export const ratesOf = (state: State, ids: readonly string[]): TaxRate[] =>
  ids.map((id) => {
    const rate = need(state.taxRates, 'tax rate', id, 'tax_rates')
    if (!rate.active) throw invalid(`The tax rate ${id} is inactive.`, { param: 'tax_rates' })
    return rate
  })

const changeable = {
  active: boolean.optional(),
  country: text.max(2).optional(),
  description: text.optional(),
  display_name: text.max(50).optional(),
  jurisdiction: text.max(50).optional(),
  metadata: metadata.optional(),
  state: text.max(2).optional(),
  tax_type: z.enum(['vat', 'gst', 'sales_tax', 'hst', 'pst', 'qst', 'jct', 'rst', 'igst', 'service_tax']).optional(),
  expand,
}
const newParams = z.strictObject({
  ...changeable,
  display_name: text.max(50),
  inclusive: boolean,
  percentage: decimal.pipe(z.number().max(100)),
})

export function taxRateRoutes(route: Route, state: State): void {
  const path = '/v1/tax_rates'
  const find = (id: string) => need(state.taxRates, 'tax rate', id)
  route('POST', path, newParams, (given) => {
    const made = newTaxRate(state, {
      display_name: given.display_name,
      percentage: given.percentage,
      inclusive: given.inclusive,
      active: given.active ?? true,
      country: given.country ?? null,
      state: given.state ?? null,
      jurisdiction: given.jurisdiction ?? null,
      description: given.description ?? null,
      tax_type: given.tax_type ?? null,
      metadata: mergeMetadata({}, given.metadata),
    })
    state.taxRates.set(made.id, made)
    emit(state, 'tax_rate.created', made)
    return made
  })
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route('POST', `${path}/:id`, z.strictObject(changeable), ({ metadata, expand: _, ...given }, id) => {
    const known = find(id)
    Object.assign(known, defined(given), { metadata: mergeMetadata(known.metadata ?? {}, metadata) })
    emit(state, 'tax_rate.updated', known)
    return known
  })
  const filters = { active: boolean.optional(), inclusive: boolean.optional() }
  route('GET', path, z.strictObject({ ...page, ...filters }), (query) =>
    listPage(
      path,
      state.taxRates.values(),
      query,
      ({ active, inclusive }) =>
        (query.active === undefined || active === query.active) &&
        (query.inclusive === undefined || inclusive === query.inclusive),
    ),
  )
}
