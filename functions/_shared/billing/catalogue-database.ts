/** What we sell, from our rows, and the note which of Stripe's prices is whose. */
import { z } from 'zod'
import type { Database, Queries } from '../db.ts'
import type { Item } from './sync-catalogue.ts'

const items = z.array(
  z.object({
    kind: z.enum(['plan_price', 'credit_pack']),
    id: z.string(),
    product_id: z.string(),
    product_name: z.string(),
    amount: z.coerce.number().int().max(Number.MAX_SAFE_INTEGER),
    currency: z.string(),
    interval: z.enum(['month', 'year']).nullable(),
    enabled: z.boolean(),
  }),
)

export function createCatalogue(sql: Queries, livemode: boolean) {
  return {
    items: async (): Promise<Item[]> =>
      items.parse([
        ...(await sql`
          select 'plan_price' as kind, p.id, 'palisade_plan_' || l.id as product_id, l.name as product_name,
            p.amount, p.currency, p.interval, p.enabled
          from public.plan_prices p join public.plans l on l.id = p.plan_id
          union all
          select 'credit_pack', c.id, 'palisade_pack_' || c.id, c.name, c.amount, c.currency, null, c.enabled
          from public.credit_packs c
          order by kind desc, product_id, id`),
      ]),
    setPrice: async ({ kind, id, product_id }: Item, priceId: string): Promise<void> => {
      const [plan, pack] = kind === 'plan_price' ? [id, null] : [null, id]
      await sql`select private.set_stripe_price(${plan}, ${pack}, ${priceId}, ${product_id}, ${livemode})`
    },
  }
}

/** Waits for whoever does the same with this database; `act` has connections of its own. */
export async function alone<T>(sql: Database, act: () => Promise<T>): Promise<T> {
  const { answer } = await sql.begin(async (lock) => {
    await lock`set local idle_in_transaction_session_timeout = 0`
    await lock`select pg_advisory_xact_lock(hashtextextended('stripe:sync', 0))`
    return { answer: await act() }
  })
  return answer
}
