/** The stand-in Stripe of the stack that the tests started, as its owner steers it, and what a buyer does. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type postgres from 'postgres'
import Stripe from 'stripe'
import { expect } from 'vitest'
import { z } from 'zod'
import { target } from '../target.ts'
import type { TestUser } from './users.ts'

const day = 86_400
export const returnUrls = {
  success_url: 'http://localhost:3000/paid?session={CHECKOUT_SESSION_ID}',
  cancel_url: 'http://localhost:3000/plans',
}

const keys = z.object({ stripe: z.object({ secretKey: z.string(), webhookSecret: z.string() }) })
const own = () => target().own ?? { data: '', port: 0 }
/** The stand-in's keys, as the stack made them. */
export const stripeKeys = () => keys.parse(JSON.parse(readFileSync(join(own().data, 'keys.json'), 'utf8'))).stripe

/** The official client, as an operator would use it. */
export const stripeClient = () =>
  new Stripe(stripeKeys().secretKey, {
    host: '127.0.0.1',
    port: own().port + 8,
    protocol: 'http',
    maxNetworkRetries: 0,
    telemetry: false,
  })

export const stripeUrl = () => `http://127.0.0.1:${own().port + 8}`

/** What only the stand-in has: its clock, cards, banks and deliveries. */
export async function control(path: string, body: object = {}): Promise<unknown> {
  const answer = await fetch(`${stripeUrl()}/control${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`)
  return answer.json()
}

const answered = z.looseObject({
  url: z.string().nullable().optional(),
  error: z.looseObject({ code: z.string(), message: z.string(), param: z.string().nullable() }).optional(),
})

/** A request to one of the addresses of the function `billing`. */
export async function billing(user: { accessToken: string }, path: 'checkout' | 'portal' | 'resume', body: object) {
  const response = await fetch(`${target().functionsUrl}/billing/${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${user.accessToken}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return { status: response.status, body: answered.parse(await response.json()) }
}

export type Item = { plan_price: string } | { credit_pack: string }

/** Starts a checkout; answers the id of its session at Stripe. */
export async function checkout(user: TestUser, item: Item) {
  const { status, body } = await billing(user, 'checkout', { ...item, ...returnUrls })
  expect({ status, error: body.error }).toEqual({ status: 200, error: undefined })
  return sessionOf(body.url)
}

export const sessionOf = (url?: string | null) => /\/c\/pay\/(cs_[A-Za-z0-9_]+)/.exec(url ?? '')?.[1] ?? ''

/** What the pay button of the checkout page does, and the page of 3-D Secure after it. */
export const pay = (session: string, card = 'ok') => control(`/complete/${session}`, { card, authenticate: 'ok' })

export async function buy(sql: postgres.Sql, user: TestUser, item: Item, card = 'ok') {
  const session = await checkout(user, item)
  await pay(session, card)
  await settled(sql)
  return session
}

/** Moves the time of one user's customer, as a test clock of Stripe's does. */
export const advance = async (sql: postgres.Sql, user: TestUser, days: number) => {
  await control('/advance', { seconds: Math.round(days * day), customer: await customerOf(sql, user) })
  await settled(sql)
}

/** On to the next period of the user's latest subscription, however long a month is, and past the hour as a draft of its invoice. */
export async function toNextPeriod(sql: postgres.Sql, user: TestUser): Promise<void> {
  await renewAtStripe(await customerOf(sql, user))
  await settled(sql)
}

/** The same at Stripe alone, whose events may be held back. */
export async function renewAtStripe(customer: string): Promise<void> {
  const [subscription] = (await stripeClient().subscriptions.list({ customer, limit: 1 })).data
  const end = subscription?.items.data[0]?.current_period_end
  if (end === undefined) throw new Error('there is no subscription whose period could end')
  await control('/advance', { to: end + 2 * 3_600, customer })
}

/** Noon on the 10th of a month to come that has so many days, in Unix seconds by the stand-in's clock. */
export async function monthOf(days: number): Promise<number> {
  const { now } = clock.parse(await (await fetch(`${stripeUrl()}/control/clock`)).json())
  const today = new Date(now * 1000)
  const month = (ahead: number, date: number) =>
    new Date(Date.UTC(today.getUTCFullYear(), today.getUTCMonth() + ahead, date, 12))
  let ahead = 1
  while (month(ahead + 1, 0).getUTCDate() !== days) ahead += 1
  return month(ahead, 10).getTime() / 1000
}
const clock = z.object({ now: z.number() })

export async function customerOf(sql: postgres.Sql, user: TestUser): Promise<string> {
  const [row] = await sql`select id from private.stripe_customers where user_id = ${user.id} and deleted_at is null`
  return row?.id ?? ''
}

/** Waits until everything is delivered, then brings the inbox to its end, without the pauses between tries. */
export async function settled(sql: postgres.Sql): Promise<void> {
  expect(await control('/settled', { timeout_ms: 30_000 })).toEqual({ settled: true })
  await applyAll(sql)
}

/** Runs the job until nothing waits. */
export async function applyAll(sql: postgres.Sql): Promise<void> {
  for (const until = Date.now() + 30_000; Date.now() < until; ) {
    await runJob('apply-stripe-events')
    if ((await waiting(sql)) === 0) return
    // Somebody else, the webhook's own pass or the stack's job, is at the rest.
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  throw new Error('the inbox does not become empty')
}

async function runJob(name: string): Promise<void> {
  const answer = await fetch(`${target().functionsUrl}/jobs/${name}`, {
    method: 'POST',
    headers: { apikey: target().secretKey },
  })
  expect(answer.status).toBe(200)
}

/** Brings what must change at Stripe for a user to its end, and what Stripe says of it. */
export async function changed(sql: postgres.Sql, userId: string): Promise<void> {
  const isDone = async () => {
    await runJob('change-stripe')
    const rows = await sql`select from private.stripe_changes where user_id = ${userId} and done_at is null`
    return rows.length === 0
  }
  await expect.poll(isDone, { timeout: 30_000 }).toBe(true)
  await settled(sql)
}

/** How many wait; those that failed wait no longer than now. */
async function waiting(sql: postgres.Sql): Promise<number> {
  await sql`
    update private.stripe_events set next_attempt_at = now()
    where state = 'waiting' and next_attempt_at > now() and error is not null`
  const [row] = await sql`select count(*)::int as waiting from private.stripe_events where state = 'waiting'`
  return row?.waiting
}

const money = z.object({ balance: z.number() })
const entitled = z.looseObject({
  plan_id: z.string(),
  state: z.string(),
  is_paid: z.boolean(),
  grace_until: z.string().nullable(),
  pay_url: z.string().nullable(),
})

/** What a client gets of the two functions that answer one row. */
export const balanceOf = async ({ client }: TestUser) =>
  money.parse((await client.rpc('get_my_credits').throwOnError()).data).balance
export const entitlementOf = async ({ client }: TestUser) =>
  entitled.parse((await client.rpc('get_my_entitlement').throwOnError()).data)
