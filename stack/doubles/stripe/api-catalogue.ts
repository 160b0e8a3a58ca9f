/** /v1/products and /v1/prices. */
import { z } from 'zod'
import { newPrice, newProduct } from './catalogue.ts'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import {
  boolean,
  defined,
  expand,
  ignored,
  integer,
  mergeMetadata,
  metadata,
  none,
  page,
  text,
  unset,
} from './params.ts'
import { invalid, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import type { Price } from './wire.ts'

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
function addProduct(
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

const intervals = z.enum(['day', 'week', 'month', 'year'])
const lookup_key = text.max(200).optional()
const transfer_lookup_key = boolean.optional()
const priceSettings = {
  nickname: text.optional(),
  metadata: metadata.optional(),
  active: boolean.optional(),
  lookup_key,
  transfer_lookup_key,
  tax_behavior: ignored,
  expand,
}
const newPriceParams = z.strictObject({
  ...priceSettings,
  product: text.optional(),
  product_data: z.strictObject({ id: text.optional(), name: text.min(1), metadata: metadata.optional() }).optional(),
  currency: z
    .string()
    .regex(/^[a-z]{3}$/i)
    .toLowerCase(),
  unit_amount: integer.pipe(z.number().min(0)),
  billing_scheme: z.literal('per_unit').optional(),
  recurring: z
    .strictObject({
      interval: intervals,
      interval_count: integer.default(1),
      usage_type: z.literal('licensed').optional(),
    })
    .optional(),
})

export function priceRoutes(route: Route, state: State): void {
  route('POST', '/v1/prices', newPriceParams, (given) => addPrice(state, given))
  route('POST', '/v1/prices/:id', z.strictObject(priceSettings), (given, id) => {
    const price = need(state.prices, 'price', id)
    takeLookupKey(state, given.lookup_key, given.transfer_lookup_key, id)
    const { nickname, active, lookup_key } = given
    const changes = {
      ...defined({ nickname, active, lookup_key }),
      metadata: mergeMetadata(price.metadata, given.metadata),
    }
    return change(state, 'price.updated', price, changes)
  })
  route('GET', '/v1/prices/:id', none, (_, id) => need(state.prices, 'price', id))
  const query = z.strictObject({
    ...page,
    active: boolean.optional(),
    product: text.optional(),
    currency: text.optional(),
    type: z.enum(['one_time', 'recurring']).optional(),
    lookup_keys: z.array(text).max(10).optional(),
  })
  route('GET', '/v1/prices', query, (asked) =>
    listPage('/v1/prices', state.prices.values(), asked, (price) => {
      const same = (['active', 'product', 'currency', 'type'] as const).every(
        (name) => asked[name] === undefined || price[name] === asked[name],
      )
      return same && (asked.lookup_keys?.includes(price.lookup_key ?? '') ?? true)
    }),
  )
}

function addPrice(state: State, given: z.infer<typeof newPriceParams>): Price {
  if ((given.product === undefined) === (given.product_data === undefined))
    throw invalid('You must specify either `product` or `product_data`.', {
      param: 'product',
      code: 'parameter_missing',
    })
  if (given.product !== undefined) need(state.products, 'product', given.product, 'product')
  takeLookupKey(state, given.lookup_key, given.transfer_lookup_key)
  const product = given.product_data
    ? addProduct(state, { ...given.product_data, description: null, active: true }).id
    : given.product
  const price = newPrice(state, {
    product: product ?? '',
    currency: given.currency,
    unit_amount: given.unit_amount,
    recurring: given.recurring ?? null,
    lookup_key: given.lookup_key ?? null,
    nickname: given.nickname ?? null,
    metadata: mergeMetadata({}, given.metadata),
    active: given.active ?? true,
  })
  state.prices.set(price.id, price)
  emit(state, 'price.created', price)
  return price
}

/** A lookup key belongs to one price; it moves only when that is asked for. */
function takeLookupKey(state: State, key: string | undefined, transfer = false, owner?: string): void {
  if (key === undefined) return
  for (const price of state.prices.values()) {
    if (price.lookup_key !== key || price.id === owner) continue
    if (!transfer) throw invalid(`A price uses the lookup key ${key} already.`, { param: 'lookup_key' })
    change(state, 'price.updated', price, { lookup_key: null })
  }
}
