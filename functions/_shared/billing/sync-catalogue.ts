/** Brings what we sell to Stripe: a product for each plan and pack, a price for each amount; and reads it back to compare. */
import type Stripe from 'stripe'
import { isMissing } from './stripe-reader.ts'

/** A plan's price or a credit pack, as our rows have it. Amounts in the currency's smallest unit. */
export type Item = {
  kind: 'plan_price' | 'credit_pack'
  id: string
  /** The product's id at Stripe, which is ours to choose: the same for all prices of one plan. */
  product_id: string
  product_name: string
  amount: number
  currency: string
  /** Null for what is paid once. */
  interval: 'month' | 'year' | null
  enabled: boolean
}

export type Action = 'same' | 'created' | 'replaced' | 'archived' | 'restored' | 'not sold'
export type Synced = {
  item: Item
  action: Action
  price_id: string | null
  /** What reads back differently; empty is well. */
  differences: string[]
}

export type CatalogueWorld = {
  stripe: Stripe
  setPrice(item: Item, priceId: string): Promise<void>
  dryRun: boolean
}

/** One after the other: prices of one plan share its product. Run again, it changes nothing. */
export async function syncCatalogue(items: Item[], world: CatalogueWorld): Promise<Synced[]> {
  const synced: Synced[] = []
  for (const item of items) synced.push(await syncItem(item, world))
  return synced
}

async function syncItem(item: Item, world: CatalogueWorld): Promise<Synced> {
  const known = await priceOf(item, world)
  const action = actionFor(item, known)
  if (world.dryRun || action === 'not sold') return { item, action, price_id: known?.id ?? null, differences: [] }
  if (action === 'archived') {
    if (known) await world.stripe.prices.update(known.id, { active: false })
    return { item, action, price_id: known?.id ?? null, differences: [] }
  }
  await keepProduct(item, world.stripe)
  const price = await keepPrice(item, known, action, world.stripe)
  const differences = await differencesOf(item, price.id, world.stripe)
  if (differences.length === 0) await world.setPrice(item, price.id)
  return { item, action, price_id: price.id, differences }
}

const lookupKey = ({ kind, id }: Item) => `palisade:${kind}:${id}`

async function priceOf(item: Item, { stripe }: CatalogueWorld): Promise<Stripe.Price | undefined> {
  const { data } = await stripe.prices.list({ lookup_keys: [lookupKey(item)], limit: 1 })
  return data[0]
}

function actionFor(item: Item, known: Stripe.Price | undefined): Action {
  if (!item.enabled) return known?.active ? 'archived' : 'not sold'
  if (!known) return 'created'
  if (priceDifferences(item, known).length > 0) return 'replaced'
  return known.active ? 'same' : 'restored'
}

async function keepProduct({ product_id: id, product_name: name }: Item, stripe: Stripe): Promise<void> {
  const known = await stripe.products.retrieve(id).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  const metadata = { palisade_id: id }
  if (!known) await stripe.products.create({ id, name, metadata }, { idempotencyKey: `product:${id}` })
  else if (known.name !== name || !known.active) await stripe.products.update(id, { name, active: true })
}

/** Stripe's prices cannot change their amount: another takes the place of the one before, which stays for who has it. */
async function keepPrice(
  item: Item,
  known: Stripe.Price | undefined,
  action: Action,
  stripe: Stripe,
): Promise<Stripe.Price> {
  if (known && action === 'same') return known
  if (known && action === 'restored') return stripe.prices.update(known.id, { active: true })
  const { amount, currency, interval, product_id } = item
  const price = await stripe.prices.create(
    {
      ...{ product: product_id, unit_amount: amount, currency, metadata: { palisade_id: item.id } },
      ...{ lookup_key: lookupKey(item), transfer_lookup_key: true },
      ...(interval && { recurring: { interval } }),
    },
    { idempotencyKey: ['price', item.kind, item.id, amount, currency, interval, known?.id].join(':') },
  )
  if (known) await stripe.prices.update(known.id, { active: false })
  return price
}

async function differencesOf(item: Item, priceId: string, stripe: Stripe): Promise<string[]> {
  const [price, product] = await Promise.all([
    stripe.prices.retrieve(priceId),
    stripe.products.retrieve(item.product_id),
  ])
  return [
    ...priceDifferences(item, price),
    ...(price.active && price.lookup_key === lookupKey(item) ? [] : ['the price is not the current one']),
    ...(product.active && product.name === item.product_name ? [] : ['the product differs']),
  ]
}

function priceDifferences({ amount, currency, interval, product_id }: Item, price: Stripe.Price): string[] {
  const productId = typeof price.product === 'string' ? price.product : price.product.id
  const compared: [string, unknown, unknown][] = [
    ['amount', amount, price.unit_amount],
    ['currency', currency, price.currency],
    ['interval', interval, price.recurring?.interval ?? null],
    ['every', interval && 1, price.recurring?.interval_count ?? null],
    ['product', product_id, productId],
  ]
  return compared.flatMap(([name, ours, theirs]) =>
    ours === theirs ? [] : [`${name}: ${String(theirs)} in the place of ${String(ours)}`],
  )
}
