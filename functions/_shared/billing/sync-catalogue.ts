/** Brings what we sell to Stripe: a product for each plan and pack, a price for each amount; and reads it back to compare. */
import type Stripe from 'stripe'
import type { BillingDatabase, Item } from './billing-database.ts'
import { isMissing } from './stripe-reader.ts'

type Action = 'same' | 'created' | 'replaced' | 'archived' | 'restored' | 'not sold'
type ProductChange = 'renamed' | 'activated'
export type Synced = {
  item: Item
  /** What happens to the price, and, with the first item of a product, to the product: `replaced, renamed`. */
  action: string
  price_id: string | null
  /** What reads back differently; empty is well. */
  differences: string[]
}

export type CatalogueWorld = {
  database: Pick<BillingDatabase, 'setPrice'>
  stripe: Stripe
  dryRun: boolean
}

/** `id` makes the keys of one run its own: under a key of a run before, Stripe repeats for a day what it has deleted since. */
type Run = CatalogueWorld & { id: string; seenProducts: Set<string> }

/**
 * One after the other: prices of one plan share its product. Run again, it changes nothing; two at once would make two
 * prices of one, so that callers run it `alone`.
 */
export async function syncCatalogue(items: Item[], world: CatalogueWorld): Promise<Synced[]> {
  const run = { ...world, id: crypto.randomUUID(), seenProducts: new Set<string>() }
  const synced: Synced[] = []
  for (const item of items) synced.push(await syncItem(item, run))
  return synced
}

async function syncItem(item: Item, run: Run): Promise<Synced> {
  const known = await priceOf(item, run)
  const action = actionFor(item, known)
  if (action === 'not sold' || action === 'archived') {
    if (action === 'archived' && known && !run.dryRun) await run.stripe.prices.update(known.id, { active: false })
    return { item, action, price_id: known?.id ?? null, differences: [] }
  }
  const changes = await keepProduct(item, run)
  const said = [...(action === 'same' && changes.length > 0 ? [] : [action]), ...changes].join(', ')
  if (run.dryRun) return { item, action: said, price_id: known?.id ?? null, differences: [] }
  const price = await keepPrice(item, known, action, run)
  const differences = await differencesOf(item, price.id, run.stripe)
  if (differences.length === 0) await run.database.setPrice(item, price.id)
  return { item, action: said, price_id: price.id, differences }
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

/** Answers what is different about a product that is there already; a dry run leaves it so. */
async function keepProduct({ product_id: id, product_name: name }: Item, run: Run): Promise<ProductChange[]> {
  if (run.seenProducts.has(id)) return []
  run.seenProducts.add(id)
  const { products } = run.stripe
  const known = await products.retrieve(id).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  const changes: ProductChange[] = known
    ? [...(known.name === name ? [] : ['renamed' as const]), ...(known.active ? [] : ['activated' as const])]
    : []
  if (run.dryRun) return changes
  const metadata = { palisade_id: id }
  if (!known) await products.create({ id, name, metadata }, { idempotencyKey: `${run.id}:product:${id}` })
  else if (changes.length > 0) await products.update(id, { name, active: true })
  return changes
}

/** Stripe's prices cannot change their amount: another takes the place of the one before, which stays for who has it. */
async function keepPrice(
  item: Item,
  known: Stripe.Price | undefined,
  action: Action,
  { stripe, id: run }: Run,
): Promise<Stripe.Price> {
  if (known && action === 'same') return known
  if (known && action === 'restored') return stripe.prices.update(known.id, { active: true })
  const { amount, currency, interval, product_id } = item
  const price = await stripe.prices.create(
    {
      ...{ product: product_id, unit_amount: amount, currency, metadata: { palisade_id: item.id } },
      ...{ lookup_key: lookupKey(item), transfer_lookup_key: known !== undefined },
      ...(interval && { recurring: { interval } }),
    },
    { idempotencyKey: `${run}:price:${item.kind}:${item.id}` },
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
