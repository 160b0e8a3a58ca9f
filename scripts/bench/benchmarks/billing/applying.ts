/** How many events one worker applies in a second: claims, readings, rows, credits and entitlements, all in SQL. */
import { applyEvents } from '../../../../functions/_shared/billing/apply-events.ts'
import { type BillingDatabase, createBillingDatabase } from '../../../../functions/_shared/billing/billing-database.ts'
import { apiVersion } from '../../../../functions/_shared/billing/stripe-client.ts'
import type { StripeReader } from '../../../../functions/_shared/billing/stripe-reader.ts'
import { connectDatabase, type Database } from '../../../../functions/_shared/db.ts'
import { eventOf, invoiceOf, subscriptionOf } from './events.ts'

const price = 'price_bench'

/** Two events for each of so many users: the beginning of a subscription and its first paid invoice. */
export async function measureApplying(url: string, users: number): Promise<{ events: number; perSecond: number }> {
  const sql = connectDatabase(url)
  try {
    await sql`delete from private.stripe_events`
    await makeBuyers(sql, users)
    const database = createBillingDatabase(sql, false)
    for (let n = 0; n < users; n += 1) {
      await receive(database, `evt_s_${n}`, 'customer.subscription.created', subscriptionOf(n, price))
      await receive(database, `evt_i_${n}`, 'invoice.paid', invoiceOf(n, price))
    }
    const began = performance.now()
    const world = { database, reader: instantReader(), livemode: false, now: Date.now, log: () => {} }
    const { applied } = await applyEvents(world, 600_000)
    const perSecond = (1000 * applied) / (performance.now() - began)
    if (applied !== 2 * users) throw new Error(`${applied} of ${2 * users} events were applied`)
    return { events: applied, perSecond }
  } finally {
    await sql.end()
  }
}

async function makeBuyers(sql: Database, count: number): Promise<void> {
  await sql`
    insert into private.stripe_prices (id, plan_price_id, product_id, livemode)
    select ${price}, id, 'prod_bench', false from public.plan_prices where enabled order by id limit 1`
  await sql`
    with made as (
      insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
      select gen_random_uuid(), 'bench-' || n || '@example.com', now(), '{}', 'authenticated', 'authenticated', now()
      from generate_series(0, ${count}::int - 1) n returning id, email)
    insert into private.stripe_customers (id, user_id, livemode)
    select 'cus_bench_' || split_part(split_part(email, '@', 1), '-', 2), id, false from made`
}

type Thing = { id: string; object: string }

async function receive(database: BillingDatabase, id: string, type: string, object: Thing): Promise<void> {
  const payload = eventOf(id, type, object, apiVersion)
  const about = { object: object.object, object_id: object.id }
  await database.receiveEvent({
    ...{ id, type, api_version: apiVersion, livemode: false, account: null, payload, ...about },
    created: Math.floor(Date.now() / 1000),
  })
}

function instantReader(): StripeReader {
  const number = (id: string) => Number(id.split('_').at(-1))
  const none = async () => undefined
  return {
    ...{ customer: none, checkoutSession: none, refund: none, dispute: none, creditNote: none },
    ...{ refundsOfCharge: async () => [], sessionsOfIntent: async () => [] },
    subscription: async (id) => subscriptionOf(number(id), price),
    invoice: async (id) => invoiceOf(number(id), price),
  }
}
