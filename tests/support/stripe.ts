/** The stand-in for Stripe on a port of its own, the official client before it, and a receiver of its webhooks. */
import { randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import Stripe from 'stripe'
import { z } from 'zod'
import { createStripe } from '../../stack/doubles/stripe.ts'

const random = () => randomBytes(16).toString('hex')
export const day = 86_400

type Fetch = (request: Request) => Response | Promise<Response>

async function serve(fetch: Fetch) {
  const server = createAdaptorServer({ fetch, hostname: '127.0.0.1' })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
  const address = server.address()
  const { port }: AddressInfo = typeof address === 'object' && address ? address : { port: 0, address: '', family: '' }
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve())
      if ('closeAllConnections' in server) server.closeAllConnections()
    })
  return { port, url: `http://127.0.0.1:${port}`, close }
}

type Hook = { type: string; id: string; object: Record<string, unknown>; body: string; signature: string }
const hookBody = z.looseObject({
  id: z.string(),
  type: z.string(),
  data: z.looseObject({ object: z.record(z.string(), z.unknown()) }),
})

/** Keeps what arrives; `answers` are the statuses of the next deliveries, then 200. */
async function receiver() {
  const hooks: Hook[] = []
  const answers: number[] = []
  const server = await serve(async (request) => {
    const body = await request.text()
    const { id, type, data } = hookBody.parse(JSON.parse(body))
    hooks.push({ id, type, object: data.object, body, signature: request.headers.get('stripe-signature') ?? '' })
    return new Response('{}', { status: answers.shift() ?? 200 })
  })
  return { ...server, hooks, answers }
}

/** Moments from which a month lasts so many days. */
export const starts = [
  [28, '2027-02-10T12:00:00Z'],
  [30, '2027-04-30T23:50:00Z'],
  [31, '2026-12-31T23:50:00Z'],
] as const

/** `startsAt` sets the stand-in's clock, which runs on from there. */
export async function createWorld({
  secrets = [['whsec', random()].join('_')],
  file,
  startsAt,
}: {
  secrets?: string[]
  file?: string
  startsAt?: string
} = {}) {
  const ahead = startsAt === undefined ? 0 : Date.parse(startsAt) - Date.now()
  const now = () => Date.now() + ahead
  const secretKey = ['sk', 'test', random()].join('_')
  const receives = await receiver()
  let standIn: ReturnType<typeof createStripe> | undefined
  const server = await serve((request) => standIn?.fetch(request) ?? new Response(null, { status: 503 }))
  const webhooks = [{ url: receives.url, secrets }]
  const start = () =>
    createStripe({ url: server.url, secretKey, webhooks, now, ...(file === undefined ? {} : { file }) })
  standIn = start()
  const settings = { host: '127.0.0.1', port: server.port, protocol: 'http', telemetry: false } as const
  const client = (key = secretKey, maxNetworkRetries = 0) => new Stripe(key, { ...settings, maxNetworkRetries })

  const control = async <T>(path: string, body: object, schema: z.ZodType<T>, method = 'POST'): Promise<T> => {
    const init = method === 'GET' ? { method } : { method, body: JSON.stringify(body) }
    const answer = await fetch(`${server.url}/control${path}`, init)
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`)
    return schema.parse(answer.status === 204 ? undefined : await answer.json())
  }
  const tell = (path: string, body: object = {}) => control(path, body, z.unknown())
  /** Names of what arrived, once nothing is on its way; they are forgotten then. */
  const told = async (): Promise<string[]> => {
    await tell('/settled')
    return receives.hooks.splice(0).map(({ type }) => type)
  }
  const page = (url: string, form?: Record<string, string>) =>
    fetch(url.startsWith('http') ? url : server.url + url, {
      redirect: 'manual',
      ...(form ? { method: 'POST', body: new URLSearchParams(form) } : {}),
    })
  return {
    secretKey,
    secrets,
    url: server.url,
    hooks: receives.hooks,
    answers: receives.answers,
    stripe: client(),
    client,
    control,
    tell,
    told,
    page,
    advance: (seconds: number) => tell('/advance', { seconds }),
    /** Unix seconds by the stand-in's clock. */
    now: async () => (await control('/clock', {}, z.object({ now: z.number() }), 'GET')).now,
    /** As if the stack had been stopped and started. */
    restart: () => {
      standIn?.close()
      standIn = start()
    },
    close: async () => {
      standIn?.close()
      await Promise.all([server.close(), receives.close()])
    },
  }
}
export type StripeWorld = Awaited<ReturnType<typeof createWorld>>

/** A customer, a monthly, a dearer and a yearly price, and one of a pack. */
export async function createShop({ stripe }: StripeWorld) {
  const customer = await stripe.customers.create({ email: 'ada@example.com', metadata: { palisade_user_id: 'ada' } })
  const product = (await stripe.products.create({ name: 'Premium' })).id
  const recurring = (interval: 'month' | 'year', unit_amount: number) =>
    stripe.prices.create({ product, currency: 'usd', unit_amount, recurring: { interval } })
  const [monthly, dearer, yearly] = [
    await recurring('month', 2000),
    await recurring('month', 5000),
    await recurring('year', 20_000),
  ]
  const pack = await stripe.prices.create({ product, currency: 'usd', unit_amount: 1000 })
  return { customer: customer.id, product, monthly: monthly.id, dearer: dearer.id, yearly: yearly.id, pack: pack.id }
}

export const returns = {
  success_url: 'http://localhost:3000/done?session={CHECKOUT_SESSION_ID}',
  cancel_url: 'http://localhost:3000/no',
}

type Params = Partial<Stripe.Checkout.SessionCreateParams>
export const checkout = ({ stripe }: StripeWorld, price: string, given: Params) =>
  stripe.checkout.sessions.create({ mode: 'subscription', line_items: [{ price, quantity: 1 }], ...returns, ...given })

/** A subscription that is paid for, and its session. */
export async function subscribe(world: StripeWorld, price: string, customer: string, given: Params = {}) {
  const session = await checkout(world, price, { customer, ...given })
  await world.tell(`/complete/${session.id}`)
  const done = await world.stripe.checkout.sessions.retrieve(session.id)
  return { session: done, id: String(done.subscription) }
}

/** A pack that is paid for: its session and payment intent. */
export async function buyPack(world: StripeWorld, price: string, customer: string) {
  const session = await checkout(world, price, { mode: 'payment', customer })
  await world.tell(`/complete/${session.id}`)
  const done = await world.stripe.checkout.sessions.retrieve(session.id)
  return { session: done.id, intent: String(done.payment_intent) }
}
