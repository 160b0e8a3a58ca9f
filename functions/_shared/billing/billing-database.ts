/** The SQL functions behind checkout and portal. Who may buy what, and at what price, is theirs; this only carries it. */
import { z } from 'zod'
import { answer, callSql, nothing, type Queries } from '../db.ts'
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
    prepareCheckout: ({ userId, sessionId }, { plan_price, credit_pack, return_urls }) =>
      callSql(
        sql`
          select private.prepare_checkout(${userId}, ${sessionId}, ${plan_price}, ${credit_pack}, ${livemode},
            ${JSON.stringify(return_urls)}::text::jsonb) as answer`,
        answer(prepared),
      ),
    preparePortal: ({ userId, sessionId }) =>
      callSql(sql`select private.prepare_portal(${userId}, ${sessionId}, ${livemode}) as answer`, answer(z.string())),
    linkCustomer: (userId, customerId) =>
      callSql(
        sql`select private.link_stripe_customer(${userId}, ${customerId}, ${livemode}) as answer`,
        answer(z.string()),
      ),
    noteCheckout: (checkoutId, sessionId, url) =>
      callSql(sql`select private.note_checkout(${checkoutId}, ${sessionId}, ${url}) as answer`, answer(z.boolean())),
    failCheckout: async (checkoutId) => {
      await callSql(sql`select private.fail_checkout(${checkoutId})`, nothing)
    },
    emailOf: async (userId) => {
      const rows = await callSql(
        sql`select email from auth.users where id = ${userId}`,
        z.array(z.object({ email: z.string().min(1).nullish().catch(null) })),
      )
      return rows[0]?.email ?? null
    },
  }
}
