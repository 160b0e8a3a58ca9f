/** The SQL functions behind checkout and portal. Who may buy what, and at what price, is theirs; this only carries it. */
import { z } from 'zod'
import type { Queries } from '../db.ts'
import { askSql } from '../refusal.ts'
import type { BillingStore } from './billing-world.ts'
import { createReadingStore } from './reading-database.ts'

const prepared = z.object({
  checkout_id: z.guid(),
  customer_id: z.string().nullable(),
  customer_key: z.string(),
  stripe_price_id: z.string(),
  mode: z.enum(['payment', 'subscription']),
  trial_days: z.int(),
  url: z.string().nullable(),
  stale_sessions: z.array(z.string()),
  expires_at: z.int(),
})

export function createBillingStore(sql: Queries, livemode: boolean): BillingStore {
  return {
    ...createReadingStore(sql),
    prepareCheckout: async ({ userId, sessionId }, { plan_price, credit_pack, return_urls }) => {
      const [row] = await askSql(sql`
        select private.prepare_checkout(${userId}, ${sessionId}, ${plan_price}, ${credit_pack}, ${livemode},
          ${JSON.stringify(return_urls)}::text::jsonb) as answer`)
      return prepared.parse(row?.answer)
    },
    preparePortal: async ({ userId, sessionId }) => {
      const [row] = await askSql(sql`select private.prepare_portal(${userId}, ${sessionId}, ${livemode}) as answer`)
      return z.string().parse(row?.answer)
    },
    linkCustomer: async (userId, customerId) => {
      const [row] = await askSql(
        sql`select private.link_stripe_customer(${userId}, ${customerId}, ${livemode}) as answer`,
      )
      return z.string().parse(row?.answer)
    },
    noteCheckout: async (checkoutId, sessionId, url) => {
      const [row] = await askSql(sql`select private.note_checkout(${checkoutId}, ${sessionId}, ${url}) as answer`)
      return row?.answer === true
    },
    failCheckout: async (checkoutId) => {
      await askSql(sql`select private.fail_checkout(${checkoutId})`)
    },
    emailOf: async (userId) => {
      const [row] = await askSql(sql`select email from auth.users where id = ${userId}`)
      return z.string().min(1).nullish().catch(null).parse(row?.email) ?? null
    },
  }
}
