/** Deliveries through our webhook and through a bare one, in turns, over the same kind of connection to the same database. */
import { randomBytes } from 'node:crypto'
import Stripe from 'stripe'
import { createBillingDatabase } from '../../../../functions/_shared/billing/billing-database.ts'
import {
  handleWebhookRequest,
  type WebhookWorld,
} from '../../../../functions/_shared/billing/handle-webhook-request.ts'
import { apiVersion } from '../../../../functions/_shared/billing/stripe-client.ts'
import { connectDatabase, type Database } from '../../../../functions/_shared/db.ts'
import { eventOf, invoiceOf, sign } from './events.ts'

const perRound = 400
const atOnce = 10

type Handle = (request: Request) => Promise<Response>

export async function measureIntake(url: string, rounds: number): Promise<{ ours: number[]; bare: number[] }> {
  const secret = ['whsec', randomBytes(24).toString('hex')].join('_')
  const sql = connectDatabase(url)
  try {
    await sql`create schema bench`
    await sql`
      create table bench.events (id text primary key, type text not null, payload jsonb not null, received_at timestamptz default now())`
    const sides = { ours: ourWebhook(sql, secret), bare: bareWebhook(sql, secret) }
    const rates = { ours: [] as number[], bare: [] as number[] }
    // The first rounds compile code and open connections, and do not count.
    for (let round = -2; round < rounds; round += 1)
      for (const side of round % 2 === 0 ? (['ours', 'bare'] as const) : (['bare', 'ours'] as const)) {
        const rate = await deliverAll(sides[side], requestsOf(`${side}_${round}`, secret))
        if (round >= 0) rates[side].push(rate)
      }
    return rates
  } finally {
    await sql.end()
  }
}

function ourWebhook(sql: Database, secret: string): Handle {
  const world: WebhookWorld = {
    database: createBillingDatabase(sql, false),
    stripe: { secrets: [secret], livemode: false },
    ...{ mayRaise: () => true, startApplying: () => {}, now: Date.now, log: (line) => void JSON.stringify(line) },
  }
  return (request) => handleWebhookRequest(request, world)
}

function bareWebhook(sql: Database, secret: string): Handle {
  const provider = Stripe.createSubtleCryptoProvider()
  return async (request) => {
    const text = await request.text()
    const signature = request.headers.get('stripe-signature') ?? ''
    const { id, type } = await Stripe.webhooks.constructEventAsync(text, signature, secret, undefined, provider)
    await sql`
      insert into bench.events (id, type, payload) values (${id}, ${type}, ${text}::text::jsonb) on conflict do nothing`
    return Response.json({ received: true })
  }
}

function requestsOf(round: string, secret: string): Request[] {
  return Array.from({ length: perRound }, (_, n) => {
    const body = eventOf(`evt_${round}_${n}`, 'invoice.paid', invoiceOf(n, 'price_bench'), apiVersion)
    const headers = { 'stripe-signature': sign(body, secret), 'content-length': String(Buffer.byteLength(body)) }
    return new Request('http://127.0.0.1/stripe-webhook', { method: 'POST', body, headers })
  })
}

/** Requests a second, with a few under way at a time. */
async function deliverAll(handle: Handle, requests: Request[]): Promise<number> {
  const began = performance.now()
  const work = async () => {
    for (let next = requests.pop(); next; next = requests.pop()) {
      const { status } = await handle(next)
      if (status !== 200) throw new Error(`a delivery was answered ${status}`)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return (1000 * perRound) / (performance.now() - began)
}
