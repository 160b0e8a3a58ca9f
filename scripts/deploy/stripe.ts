/** What Stripe needs of a project: an endpoint for its events, and a product and price for everything that is sold. */
import type Stripe from 'stripe'
import { z } from 'zod'
import { type Item, items, itemsQuery } from '../../functions/_shared/billing/billing-database.ts'
import { apiVersion, createStripe, isLiveKey } from '../../functions/_shared/billing/stripe-client.ts'
import { type Synced, syncCatalogue } from '../../functions/_shared/billing/sync-catalogue.ts'
import { StackError } from '../../stack/config.ts'
import { done, type Query, type Step, toDo, whenThere } from './steps.ts'

type Account = { secretKey: string; apiUrl: string | undefined }

const prices = z.array(z.object({ id: z.string() }))
const connect = ({ secretKey, apiUrl }: Account): Stripe => createStripe(secretKey, apiUrl)

/** Products and prices, as `npm run stripe:sync` makes them. */
export function catalogueStep(query: Query, account: Account): Step {
  const sync = async (dryRun: boolean): Promise<Synced[]> => {
    const database = {
      setPrice: async ({ kind, id, product_id }: Item, priceId: string) => {
        const [plan, pack] = kind === 'plan_price' ? [id, null] : [null, id]
        const livemode = String(isLiveKey(account.secretKey))
        await query('select private.set_stripe_price($1::text, $2::text, $3::text, $4::text, $5::text::boolean)', [
          ...[plan, pack, priceId, product_id, livemode],
        ])
      },
    }
    return syncCatalogue(items.parse(await query(itemsQuery)), { database, stripe: connect(account), dryRun })
  }
  return {
    name: 'stripe prices',
    look: () =>
      whenThere(query, 'makes a product and a price for everything that is sold', async () => {
        const synced = await sync(true)
        const changes = synced.filter(({ action }) => action !== 'same' && action !== 'not sold')
        if (changes.length > 0) return toDo(changes.map(({ item, action }) => `${item.id}: ${action}`).join(', '))
        const rows = await query('select id from private.stripe_prices where is_current')
        const noted = new Set(prices.parse(rows).map(({ id }) => id))
        const isNoted = ({ action, price_id }: Synced) =>
          action !== 'same' || (price_id !== null && noted.has(price_id))
        return synced.every(isNoted) ? done('Stripe has what is sold') : toDo('notes which price in Stripe is whose')
      }),
    act: async () => {
      const different = (await sync(false)).filter(({ differences }) => differences.length > 0)
      if (different.length > 0)
        throw new StackError(
          `Stripe has something else: ${different.map(({ item, differences }) => `${item.id} (${differences.join(', ')})`).join('; ')}`,
        )
    },
  }
}

/** Where the endpoint's secret is kept; it is shown once, so one that was lost means another endpoint. */
type Keeper = { has(): Promise<boolean>; keep(secret: string): Promise<void> }

const waits = 'waits for its secret'
const isReady = 'secret is kept'

/** Events come in the version that everything here was written for, since an endpoint sends its own. */
export function endpointStep(url: string, account: Account, keeper: Keeper): Step {
  const stripe = connect(account)
  const all = async () => {
    const found = await stripe.webhookEndpoints.list({ limit: 100 }).autoPagingToArray({ limit: 1_000 })
    return found.filter((endpoint) => endpoint.url === url)
  }
  const isGood = (endpoint: Stripe.WebhookEndpoint) =>
    endpoint.status === 'enabled' && endpoint.api_version === apiVersion && endpoint.metadata.palisade !== waits
  return {
    name: 'stripe endpoint',
    look: async () => {
      const good = (await all()).filter(isGood)
      if (good.length > 0 && (await keeper.has())) return done('Stripe sends its events')
      return toDo(`has Stripe send its events to ${url}`)
    },
    act: async () => {
      const before = await all()
      const { id, secret } = await stripe.webhookEndpoints.create({
        ...{ url, api_version: apiVersion, enabled_events: ['*'], description: 'Palisade' },
        metadata: { palisade: waits },
      })
      if (!secret) throw new StackError('Stripe did not show the secret of the new endpoint.')
      await keeper.keep(secret)
      await stripe.webhookEndpoints.update(id, { metadata: { palisade: isReady } })
      // Of ours alone: nobody has their secret any more.
      for (const old of before.filter(({ metadata }) => metadata.palisade !== undefined))
        await stripe.webhookEndpoints.del(old.id)
    },
  }
}
