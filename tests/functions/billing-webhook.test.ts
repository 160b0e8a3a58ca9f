/** The webhook with an inbox in memory: what is kept, what is refused, and what is written down about it. */
import { describe, expect, test } from 'vitest'
import type { BillingDatabase, ReceivedEvent, SecurityEvent } from '../../functions/_shared/billing/billing-database.ts'
import {
  createRaiseLimit,
  handleWebhookRequest,
  type WebhookWorld,
} from '../../functions/_shared/billing/handle-webhook-request.ts'
import { apiVersion } from '../../functions/_shared/billing/stripe-client.ts'
import { event, fakeDatabase, invoice, makeSecret, now, nowSeconds, sign } from './billing-world.ts'

const secret = makeSecret()

/** `said` is what a test changes of the database, `changes` of the rest. */
function createWorld(changes: Partial<WebhookWorld> = {}, said: Partial<BillingDatabase> = {}) {
  const kept = new Map<string, ReceivedEvent>()
  const raised: SecurityEvent[] = []
  const lines: unknown[] = []
  const started = { times: 0 }
  const world: WebhookWorld = {
    stripe: { secrets: [secret], livemode: false },
    database: fakeDatabase({
      receiveEvent: async (received) => {
        const isNew = !kept.has(received.id)
        kept.set(received.id, received)
        return isNew
      },
      raiseSecurityEvent: async (security) => void raised.push(security),
      ...said,
    }),
    mayRaise: createRaiseLimit(() => now),
    startApplying: () => {
      started.times += 1
    },
    now: () => now,
    log: (line) => void lines.push(line),
    ...changes,
  }
  return { world, kept, raised, lines, started }
}

type Delivery = { body?: string; signature?: string | null; headers?: Record<string, string>; method?: string }

async function deliver(world: WebhookWorld, { body, signature, headers = {}, method = 'POST' }: Delivery = {}) {
  const payload = body ?? JSON.stringify(event('invoice.paid', invoice()))
  const given = signature === undefined ? sign(payload, secret) : signature
  const all = { 'x-forwarded-for': '203.0.113.9', ...(given !== null && { 'stripe-signature': given }), ...headers }
  const request = new Request('http://127.0.0.1/stripe-webhook', {
    ...{ method, headers: all },
    ...(method === 'POST' && { body: payload }),
  })
  const response = await handleWebhookRequest(request, world)
  return { status: response.status, body: await response.json() }
}
const body = JSON.stringify(event('invoice.paid', invoice()))

describe('refused', () => {
  test.each<[string, string | null]>([
    ['no signature', null],
    ['an empty signature', ''],
    ['a signature with another secret', sign(body, makeSecret())],
    ['the signature of another body', sign(`${body} `, secret)],
    ['a signature of six minutes ago', sign(body, secret, nowSeconds - 360)],
    ['a signature of an older scheme only', sign(body, secret).replace('v1=', 'v0=')],
    ['what is no signature', 'hello'],
  ])('%s: nothing is kept, and it is a security event', async (_name, signature) => {
    const { world, kept, raised } = createWorld()

    const answer = await deliver(world, { body, signature })

    expect(answer).toMatchObject({ status: 400, body: { error: { code: 'invalid_signature' } } })
    expect(kept.size).toBe(0)
    expect(raised).toMatchObject([{ type: 'stripe_signature_invalid', dedupeKey: '203.0.113', ip: '203.0.113.9' }])
  })

  test('a flood of garbage from one network is one write in ten seconds, and from everywhere thirty a minute, and hides no other', async () => {
    let time = now
    const { world, raised } = createWorld({ now: () => time, mayRaise: createRaiseLimit(() => time) })
    const garbage = (address: string) => deliver(world, { signature: null, headers: { 'x-forwarded-for': address } })
    await Promise.all(Array.from({ length: 50 }, (_, n) => garbage(`203.0.113.${n}`)))
    expect(raised).toHaveLength(1)

    time += 10_000
    await garbage('203.0.113.9')
    expect(raised).toHaveLength(2)
    await Promise.all(Array.from({ length: 50 }, (_, n) => garbage(`198.51.${n}.1`)))
    expect(raised).toHaveLength(30)
    const live = JSON.stringify(event('invoice.paid', invoice(), { livemode: true }))
    await deliver(world, { body: live, signature: sign(live, secret, time / 1000) })
    expect(raised.at(-1)).toMatchObject({ type: 'stripe_livemode_mismatch' })
    time += 60_000
    await garbage('192.0.2.1')

    expect(raised).toHaveLength(32)
  })

  test('a body of 10 MB, before all of it was read', async () => {
    let sent = 0
    const stream = new ReadableStream({
      pull: (controller) => {
        sent += 100_000
        if (sent > 10_000_000) controller.close()
        else controller.enqueue(new Uint8Array(100_000))
      },
    })
    const { world, kept } = createWorld()
    const init = { method: 'POST', body: stream, duplex: 'half' as const, headers: { 'stripe-signature': 't=1,v1=a' } }

    const response = await handleWebhookRequest(new Request('http://127.0.0.1/stripe-webhook', init), world)

    expect(response.status).toBe(413)
    expect(sent).toBeLessThan(1_500_000)
    expect(kept.size).toBe(0)
  })

  test.each([true, false])('an event of the other mode: livemode %s', async (livemode) => {
    const { world, kept, raised } = createWorld({ stripe: { secrets: [secret], livemode: !livemode } })

    const answer = await deliver(world, { body: JSON.stringify(event('invoice.paid', invoice(), { livemode })) })

    expect(answer.status).toBe(400)
    expect(kept.size).toBe(0)
    expect(raised).toMatchObject([{ type: 'stripe_livemode_mismatch', severity: 'high' }])
  })

  test('what is signed and no event, without a security event', async () => {
    const { world, raised } = createWorld()

    const statuses = []
    for (const text of ['{', '{}', '"text"', '{"object":"v2.core.event"}'])
      statuses.push((await deliver(world, { body: text })).status)

    expect(statuses).toEqual([400, 400, 400, 400])
    expect(raised).toEqual([])
  })

  test('everything, where Stripe is not set up; other methods and addresses', async () => {
    const { world } = createWorld({ stripe: undefined })
    const elsewhere = new Request('http://127.0.0.1/stripe-webhook/x', { method: 'POST' })

    expect(await deliver(world)).toMatchObject({ status: 503, body: { error: { code: 'billing_not_configured' } } })
    expect((await deliver(world, { method: 'GET' })).status).toBe(405)
    expect((await handleWebhookRequest(elsewhere, world)).status).toBe(404)
  })
})

describe('kept', () => {
  test('an event is kept as it was sent, and applied after the answer', async () => {
    const { world, kept, started } = createWorld()

    expect(await deliver(world, { body })).toEqual({ status: 200, body: { received: true } })

    expect(kept.get('evt_1')).toEqual({
      ...{ id: 'evt_1', type: 'invoice.paid', api_version: apiVersion, livemode: false, account: null },
      ...{ created: nowSeconds, object: 'invoice', object_id: 'in_1', payload: body },
    })
    expect(started.times).toBe(1)
  })

  test('twice is answered alike, and starts nothing more', async () => {
    const { world, kept, started } = createWorld()

    const answers = [await deliver(world), await deliver(world)]

    expect(answers.map(({ status }) => status)).toEqual([200, 200])
    expect([kept.size, started.times]).toEqual([1, 1])
  })

  test('unknown types, objects without an id, and events of another account', async () => {
    const { world, kept } = createWorld()
    const events = [
      event('never.heard.of', { object: 'thing', id: 'thing_1' }, { id: 'evt_a' }),
      event('invoice.upcoming', { object: 'invoice' }, { id: 'evt_b' }),
      event('balance.available', { object: 'balance' }, { id: 'evt_c', account: 'acct_1' }),
      event('invoice.upcoming', { object: 'invoice', id: null }, { id: 'evt_d' }),
      event('something.without.a.kind', { object: null, id: null }, { id: 'evt_e' }),
    ]

    for (const one of events) expect((await deliver(world, { body: JSON.stringify(one) })).status).toBe(200)

    expect([...kept.values()].map(({ object_id, account }) => [object_id, account])).toEqual([
      ['thing_1', null],
      [null, null],
      [null, 'acct_1'],
      [null, null],
      [null, null],
    ])
  })

  test('a thin event, which carries no object and does nothing: somebody is told that it has no version', async () => {
    const { world, kept, raised } = createWorld()
    const thin = {
      ...{ id: 'evt_thin', object: 'v2.core.event', type: 'v1.billing.meter.error_report_triggered', livemode: false },
      ...{
        created: '2026-11-20T00:00:00.500Z',
        related_object: { id: 'cus_1', type: 'customer', url: '/v1/customers/1' },
      },
    }

    const answer = await deliver(world, { body: JSON.stringify(thin) })
    const live = await deliver(world, { body: JSON.stringify({ ...thin, id: 'evt_live', livemode: true }) })

    expect([answer.status, live.status]).toEqual([200, 400])
    // Not as an event about the customer, which would be read.
    expect([...kept.values()]).toEqual([
      {
        ...{ id: 'evt_thin', type: thin.type, api_version: null, livemode: false, account: null },
        ...{ created: nowSeconds, object: 'v2.core.event', object_id: 'cus_1', payload: JSON.stringify(thin) },
      },
    ])
    expect(raised.map(({ type }) => type)).toEqual(['stripe_api_version', 'stripe_livemode_mismatch'])
  })

  test('either of two secrets signs during a rotation', async () => {
    const next = makeSecret()
    const { world, raised } = createWorld({ stripe: { secrets: [next, secret], livemode: false } })

    const statuses = [
      sign(body, secret),
      sign(body, next),
      `${sign(body, makeSecret())},${sign(body, next).slice(13)}`,
    ].map(async (signature) => (await deliver(world, { body, signature })).status)

    expect(await Promise.all(statuses)).toEqual([200, 200, 200])
    expect(raised).toEqual([])
  })

  test('an event of another version is kept, and somebody is told', async () => {
    const { world, kept, raised } = createWorld()

    const answer = await deliver(world, {
      body: JSON.stringify(event('invoice.paid', invoice(), { api_version: '2024-06-20' })),
    })

    expect([answer.status, kept.size]).toEqual([200, 1])
    expect(raised).toMatchObject([
      { type: 'stripe_api_version', severity: 'medium', details: { api_version: '2024-06-20', expected: apiVersion } },
    ])
  })

  test('a warning that cannot be written costs nothing else', async () => {
    const raiseSecurityEvent = () => Promise.reject(new Error('the database is down'))
    const { world } = createWorld({}, { raiseSecurityEvent })

    const other = await deliver(world, { body: JSON.stringify(event('a.b', invoice(), { api_version: null })) })

    expect(other.status).toBe(200)
    expect((await deliver(world, { signature: null })).status).toBe(400)
  })

  test('an event that cannot be kept is answered so that Stripe sends it again', async () => {
    const { world, started } = createWorld(
      {},
      { receiveEvent: () => Promise.reject(new Error('the database is down')) },
    )

    expect((await deliver(world)).status).toBe(500)
    expect(started.times).toBe(0)
  })
})

test('nothing of the payload, no secret and no signature is in the log', async () => {
  const { world, lines } = createWorld({}, { receiveEvent: () => Promise.reject(new Error('someone@example.com')) })
  const body = JSON.stringify(event('invoice.paid', invoice({ customer_email: 'someone@example.com' })))

  await deliver(world, { body })
  await deliver(world, { body: `{"email": "someone@example.com"` })
  await deliver(world, { body, signature: `t=1,v1=${secret}` })

  expect(lines).toHaveLength(3)
  expect(JSON.stringify(lines)).not.toMatch(/someone|whsec|v1=|price_1/)
})
