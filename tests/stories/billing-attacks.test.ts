/** What an attacker tries against the money: forged and replayed events, foreign ones, prices and sessions of others. */
import postgres from 'postgres'
import Stripe from 'stripe'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  applyAll,
  balanceOf,
  billing,
  buy,
  checkout,
  control,
  pay,
  returnUrls,
  sessionOf,
  settled,
  stripeClient,
  stripeKeys,
  stripeUrl,
} from '../support/billing.ts'
import { newUser, openaiFor, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

const premium = { plan_price: 'premium_month' }
const pack = { credit_pack: 'credits_500' }

let sql: postgres.Sql
let user: TestUser
beforeAll(async () => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
  user = await newUser()
})
afterAll(() => sql.end())

const unix = (secondsAgo = 0) => Math.floor(Date.now() / 1000) - secondsAgo
const newId = (prefix: string) => `${prefix}_${crypto.randomUUID().replaceAll('-', '')}`
const event = (changes: object = {}) =>
  JSON.stringify({
    ...{ id: newId('evt'), object: 'event', api_version: Stripe.API_VERSION, created: unix(), livemode: false },
    ...{ type: 'product.updated', data: { object: { id: newId('prod'), object: 'product' } }, ...changes },
  })
const sign = (payload: string, { secret = stripeKeys().webhookSecret, timestamp = unix() } = {}) =>
  Stripe.webhooks.generateTestHeaderStringAsync({ payload, secret, timestamp })

async function deliver(payload: string, signature?: string) {
  const response = await fetch(`${target().functionsUrl}/stripe-webhook`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(signature ? { 'stripe-signature': signature } : {}) },
    body: payload,
  })
  return { status: response.status, body: await response.json() }
}
const inbox = async (payload: string) =>
  sql`select type, state, livemode, account from private.stripe_events where id = ${JSON.parse(payload).id}`
const securityEvents = async (type: string): Promise<number> => {
  const [row] = await sql`
    select coalesce(sum(occurrences), 0)::int as count from public.security_events where type = ${type}`
  return row?.count
}

describe.runIf(target().own)('the webhook', () => {
  test('refuses a forged, a missing and an old signature with 400 and a security event, and keeps nothing', async () => {
    const before = await securityEvents('stripe_signature_invalid')
    const forged = event()
    const refused = { status: 400, body: { error: { code: 'invalid_signature' } } }

    expect(await deliver(forged)).toMatchObject(refused)
    expect(await deliver(forged, await sign(forged, { secret: newId('whsec') }))).toMatchObject(refused)
    expect(await deliver(forged, await sign(forged, { timestamp: unix(301) }))).toMatchObject(refused)
    expect(await deliver(forged.replace('product.updated', 'product.deleted'), await sign(forged))).toMatchObject(
      refused,
    )
    expect(await deliver(`${forged} `, await sign(forged))).toMatchObject(refused)

    expect(await inbox(forged)).toEqual([])
    expect(await securityEvents('stripe_signature_invalid')).toBeGreaterThan(before)
  })

  test('takes an event once, however often it comes, and of every type', async () => {
    const payload = event({ type: `made.up.${newId('type')}` })
    const signature = await sign(payload)

    const answers = await Promise.all(Array.from({ length: 10 }, () => deliver(payload, signature)))

    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
    expect(await inbox(payload)).toHaveLength(1)
    await applyAll(sql)
    expect(await inbox(payload)).toMatchObject([{ state: 'ignored' }])
  })

  test('keeps every one of a burst, each once, but the one that no database can hold', async () => {
    const burst = Array.from({ length: 40 }, () => event({ type: 'made.up' }))
    // Correct JSON, and more than a number of the database may be.
    const broken = event({ type: 'made.up', data: { object: { id: 'x', amount: 'broken' } } }).replace(
      '"broken"',
      '1e200000',
    )
    const all = [...burst, broken, ...burst]
    const signatures = await Promise.all(all.map((payload) => sign(payload)))

    const answers = await Promise.all(all.map((payload, i) => deliver(payload, signatures[i])))

    expect(answers.map(({ status }) => status)).toEqual(all.map((payload) => (payload === broken ? 500 : 200)))
    const ids = burst.map((payload) => JSON.parse(payload).id)
    expect(await sql`select id from private.stripe_events where id = any(${ids})`).toHaveLength(40)
  })

  test('lets no event of the other mode or of another account do anything', async () => {
    const session = await checkout(user, pack)
    const paidFor = { id: session, object: 'checkout.session' }
    const live = event({ type: 'checkout.session.completed', livemode: true, data: { object: paidFor } })
    const foreign = event({ type: 'checkout.session.completed', account: newId('acct'), data: { object: paidFor } })
    const [mode, account] = [
      await securityEvents('stripe_livemode_mismatch'),
      await securityEvents('stripe_foreign_account'),
    ]

    expect(await deliver(live, await sign(live))).toMatchObject({ status: 400 })
    expect(await deliver(foreign, await sign(foreign))).toMatchObject({ status: 200 })
    await applyAll(sql)

    expect(await inbox(live)).toEqual([])
    expect(await inbox(foreign)).toMatchObject([{ state: 'ignored' }])
    expect(await balanceOf(user)).toBe(100)
    expect(await securityEvents('stripe_livemode_mismatch')).toBeGreaterThan(mode)
    expect(await securityEvents('stripe_foreign_account')).toBeGreaterThan(account)
  })

  test('believes Stripe and not the event: one that says paid changes nothing while the session is not', async () => {
    const session = await checkout(user, pack)
    const lie = event({
      type: 'checkout.session.completed',
      data: { object: { id: session, object: 'checkout.session', status: 'complete', payment_status: 'paid' } },
    })

    expect(await deliver(lie, await sign(lie))).toMatchObject({ status: 200 })
    await applyAll(sql)

    expect(await balanceOf(user)).toBe(100)
  })

  test('reads an event of another API version, and raises an alert', async () => {
    const before = await securityEvents('stripe_api_version')
    const buyer = await newUser()
    await control('/settings', { api_version: '2022-11-15' })
    await buy(sql, buyer, pack).finally(() => control('/settings', { api_version: Stripe.API_VERSION }))

    expect(await balanceOf(buyer)).toBe(600)
    expect(await securityEvents('stripe_api_version')).toBeGreaterThan(before)
  })

  test('refuses a body of 10 MB without reading it to the end', async () => {
    expect(await deliver(event({ padding: 'x'.repeat(10_000_000) }), 't=1,v1=00')).toMatchObject({ status: 413 })
  })
})

describe.runIf(target().own)('a checkout', () => {
  test('takes nothing from the client but our own ids and addresses that are allowed', async () => {
    const [row] = await sql`select id from private.stripe_prices where credit_pack_id = 'credits_500' and is_current`
    const tries: [object, string | null][] = [
      [{ price: row?.id, ...returnUrls }, 'price'],
      [{ ...premium, price: row?.id, ...returnUrls }, 'price'],
      [{ ...premium, trial_days: 365, ...returnUrls }, 'trial_days'],
      [{ ...premium, customer: 'cus_another', ...returnUrls }, 'customer'],
      [{ ...premium, user_id: user.id, ...returnUrls }, 'user_id'],
      [{ ...premium, ...returnUrls, success_url: 'https://evil.example/' }, 'success_url'],
      [{ ...premium, ...returnUrls, cancel_url: 'http://localhost:3000.evil.example/' }, 'cancel_url'],
      [{ ...premium, ...returnUrls, success_url: 'http://localhost:3000@evil.example/' }, 'success_url'],
      [{ ...premium, ...returnUrls, success_url: 'javascript:alert(1)' }, 'success_url'],
    ]
    for (const [body, param] of tries)
      expect(await billing(user, 'checkout', body), JSON.stringify(body)).toMatchObject({
        status: 400,
        body: { error: { param } },
      })
    expect(await billing(user, 'checkout', { plan_price: row?.id, ...returnUrls })).toMatchObject({
      status: expect.toSatisfy((s) => s === 400 || s === 404),
    })
    expect(await billing({ accessToken: 'pal_x' }, 'checkout', { ...premium, ...returnUrls })).toMatchObject({
      status: expect.toSatisfy((s) => s === 401 || s === 403),
    })
  })

  test('that somebody else pays for grants to whom it was made for; its id is worth nothing to others', async () => {
    const [owner, thief] = [await newUser(), await newUser()]
    const session = await checkout(owner, pack)

    await pay(session)
    await settled(sql)
    expect([await balanceOf(owner), await balanceOf(thief)]).toEqual([600, 100])

    // A payment link takes whatever client_reference_id its visitor writes into the address.
    const before = await securityEvents('stripe_customer_mismatch')
    const [price] = await sql`select id from private.stripe_prices where credit_pack_id = 'credits_500' and is_current`
    const [customer] = await sql`select id from private.stripe_customers where user_id = ${owner.id}`
    const linked = await stripeClient().checkout.sessions.create({
      ...{ mode: 'payment', customer: customer?.id, client_reference_id: thief.id },
      ...{ line_items: [{ price: price?.id, quantity: 1 }], success_url: returnUrls.success_url },
    })
    await pay(linked.id)
    await settled(sql)
    expect([await balanceOf(owner), await balanceOf(thief)]).toEqual([600, 100])
    expect(await securityEvents('stripe_customer_mismatch')).toBeGreaterThan(before)
    expect(await billing(thief, 'portal', { return_url: 'http://localhost:3000/' })).toMatchObject({ status: 404 })
    expect(await thief.client.from('payments').select('id')).toMatchObject({ data: [] })
  })

  test('makes one customer and one session, however many ask at once, and one trial', async () => {
    const buyer = await newUser()

    const asked = await Promise.all(
      Array.from({ length: 8 }, () => billing(buyer, 'checkout', { ...premium, ...returnUrls })),
    )

    const opened = asked.filter(({ status }) => status === 200).map(({ body }) => sessionOf(body.url))
    expect(asked.filter(({ status }) => status !== 200 && status !== 409)).toEqual([])
    expect(new Set(opened).size).toBe(1)
    const customers = await sql`select id from private.stripe_customers where user_id = ${buyer.id}`
    expect(customers).toHaveLength(1)
    const atStripe = await stripeClient().customers.list({ limit: 100 })
    expect(atStripe.data.filter(({ metadata }) => metadata.palisade_user_id === buyer.id)).toHaveLength(1)

    const yearly = await billing(buyer, 'checkout', { plan_price: 'premium_year', ...returnUrls })
    expect(yearly.status).toBe(200)
    await expect(pay(opened[0] ?? '')).rejects.toThrow('expired')
  })

  test('of a name and page with markup in it stays text', async () => {
    const session = await checkout(user, pack)
    const page = await (await fetch(`${stripeUrl()}/c/pay/${session}`)).text()
    expect(page).toContain('500 credits')
    expect(page).not.toContain('<script')
  })
})

describe.runIf(target().own)('what is not paid for', () => {
  test('is refused in the database with a link to pay, and allowed with the next call once it is paid', async () => {
    const buyer = await newUser()
    await sql`delete from public.plan_features where plan_id = 'free' and feature = 'portfolio_sync'`
    try {
      const sync = async () => {
        const response = await fetch(`${target().functionsUrl}/portfolio/sync`, {
          method: 'POST',
          headers: { authorization: `Bearer ${buyer.accessToken}` },
        })
        return { status: response.status, text: await response.text() }
      }

      const refused = await sync()
      expect(refused).toMatchObject({ status: 402, text: expect.stringContaining('entitlement_required') })
      expect(refused.text).toContain('/billing')

      await buy(sql, buyer, premium)
      expect(await sync()).toMatchObject({ status: 200 })
    } finally {
      await sql`insert into public.plan_features (plan_id, feature) values ('free', 'portfolio_sync') on conflict do nothing`
    }
  })

  test('as a model of a better plan, is refused to whom has not paid, with the way to pay', async () => {
    const buyer = await newUser()
    await sql`delete from public.plan_models where plan_id = 'free' and model_id = 'demo/echo'`
    try {
      const ask = () =>
        openaiFor(buyer.accessToken).chat.completions.create({
          model: 'demo/echo',
          messages: [{ role: 'user', content: 'Hello' }],
        })
      await expect(ask()).rejects.toMatchObject({ status: 403, message: expect.stringContaining('/billing') })

      await buy(sql, buyer, premium)
      expect((await ask()).choices[0]?.message.content).toContain('Hello')
    } finally {
      await sql`insert into public.plan_models (plan_id, model_id) values ('free', 'demo/echo') on conflict do nothing`
    }
  })
})
