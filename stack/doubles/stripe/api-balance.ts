/** /v1/customers/ID/balance_transactions, and /v1/balance_transactions of the account. */
import { z } from 'zod'
import { moveBalance } from './balance.ts'
import { livingCustomer } from './customers.ts'
import { asOf } from './due.ts'
import { listPage } from './lists.ts'
import { currency, expand, integer, mergeMetadata, metadata, none, page, text } from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'

const newParams = z.strictObject({
  amount: integer,
  currency,
  description: text.max(350).optional(),
  metadata: metadata.optional(),
  expand,
})

export function balanceRoutes(route: Route, state: State): void {
  const path = '/v1/customers/:id/balance_transactions'
  route('POST', path, newParams, ({ amount, currency, description = null, metadata }, id) => {
    const customer = livingCustomer(state, id)
    if (customer.currency && customer.currency !== currency)
      throw invalid(`The balance of this customer is in ${customer.currency}.`, { param: 'currency' })
    const entry = { amount, currency, description, metadata: mergeMetadata({}, metadata), type: 'adjustment' as const }
    return asOf(state, id, () => moveBalance(state, customer, entry))
  })
  route('GET', path, z.strictObject({ ...page, invoice: text.optional() }), (query, id) => {
    livingCustomer(state, id)
    return listPage(
      path.replace(':id', id),
      state.balanceEntries.values(),
      query,
      ({ customer, invoice }) => customer === id && (query.invoice === undefined || invoice === query.invoice),
    )
  })
  route('GET', `${path}/:sub`, none, (_, _customer, id) =>
    need(state.balanceEntries, 'customer balance transaction', id),
  )
  const filters = { currency: text.optional(), source: text.optional(), type: text.optional() }
  route('GET', '/v1/balance_transactions/:id', none, (_, id) => need(state.moneyEntries, 'balance transaction', id))
  route('GET', '/v1/balance_transactions', z.strictObject({ ...page, ...filters }), (query) =>
    listPage('/v1/balance_transactions', state.moneyEntries.values(), query, (entry) =>
      (['currency', 'source', 'type'] as const).every(
        (name) => query[name] === undefined || entry[name] === query[name],
      ),
    ),
  )
}
