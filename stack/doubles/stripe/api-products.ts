/** /v1/products. */
import { z } from 'zod'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import { boolean, defined, expand, ignored, mergeMetadata, metadata, none, page, text, unset } from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import { newProduct } from './shape-catalogue.ts'
import type { State } from './state.ts'

const product = {
  description: unset.or(text).optional(),
  metadata: metadata.optional(),
  active: boolean.optional(),
  images: ignored,
  url: ignored,
  tax_code: ignored,
  statement_descriptor: ignored,
  expand,
}
const newProductParams = z.strictObject({ ...product, id: text.optional(), name: text.min(1), type: ignored })
const changedProduct = z.strictObject({ ...product, name: text.min(1).optional(), default_price: text.optional() })

export function productRoutes(route: Route, state: State): void {
  route('POST', '/v1/products', newProductParams, (given) => {
    if (given.id !== undefined && state.products.has(given.id))
      throw invalid(`Product already exists: ${given.id}`, { code: 'resource_already_exists', param: 'id' })
    return addProduct(state, given)
  })
  route('POST', '/v1/products/:id', changedProduct, ({ metadata, name, description, active, default_price }, id) => {
    const known = need(state.products, 'product', id)
    if (default_price !== undefined) need(state.prices, 'price', default_price, 'default_price')
    const changes = defined({ name, description, active, default_price })
    const updated = change(state, 'product.updated', known, {
      ...changes,
      metadata: mergeMetadata(known.metadata, metadata),
    })
    updated.updated = state.now()
    return updated
  })
  route('GET', '/v1/products/:id', none, (_, id) => need(state.products, 'product', id))
  const query = z.strictObject({ ...page, active: boolean.optional(), ids: z.array(text).optional() })
  route('GET', '/v1/products', query, (asked) =>
    listPage(
      '/v1/products',
      state.products.values(),
      asked,
      ({ active, id }) => (asked.active === undefined || active === asked.active) && (asked.ids?.includes(id) ?? true),
    ),
  )
  route('DELETE', '/v1/products/:id', none, (_, id) => {
    const known = need(state.products, 'product', id)
    if ([...state.prices.values()].some((price) => price.product === id))
      throw invalid('A product that has prices cannot be deleted; archive it.')
    state.products.delete(id)
    emit(state, 'product.deleted', known)
    return { id, object: 'product', deleted: true }
  })
}

type ProductInput = z.infer<typeof newProductParams>
export function addProduct(
  state: State,
  {
    id,
    name,
    description = null,
    metadata,
    active = true,
  }: Pick<ProductInput, 'id' | 'name' | 'description' | 'metadata' | 'active'>,
) {
  const made = newProduct(state, { id, name, description, metadata: mergeMetadata({}, metadata), active })
  state.products.set(made.id, made)
  emit(state, 'product.created', made)
  return made
}
