/**
 * The webhook without its environment: verify, keep, answer. What an event does is done afterwards by apply-events.ts, so that
 * Stripe never waits for us, and what it sent is never lost to an error of ours.
 */
import Stripe from 'stripe'
import { z } from 'zod'
import { AppError, renderError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { BodyTooLarge, BodyTooSlow, readFramedBody, tooSlow } from '../http/read-body.ts'
import { clientAddress } from '../http/request-headers.ts'
import { type BillingDatabase, type ReceivedEvent, type SecurityEvent, warn } from './billing-database.ts'
import { apiVersion } from './stripe-client.ts'

const bodyLimitBytes = 1_000_000

export type WebhookWorld = {
  database: BillingDatabase
  /** Undefined when this deployment has no Stripe account. */
  stripe: { secrets: readonly string[]; livemode: boolean } | undefined
  /** Whether a security event of this type and source may be written now. */
  mayRaise: ReturnType<typeof createRaiseLimit>
  /** Called after an event was kept that is new. */
  startApplying(): void
  now(): number
  log(line: Record<string, unknown>): void
}

export async function handleWebhookRequest(request: Request, world: WebhookWorld): Promise<Response> {
  try {
    const event = await verify(request, world)
    const isNew = await world.database.receiveEvent(event)
    world.log({ level: 'info', message: 'stripe-webhook', event_id: event.id, type: event.type, is_new: isNew })
    if (isNew) world.startApplying()
    return Response.json({ received: true })
  } catch (cause) {
    const error = toAppError(cause)
    const level = error.status >= 500 ? 'error' : 'info'
    world.log({ level, message: 'stripe-webhook', error_code: error.code, ...causeOf(error) })
    return render(error, world.now())
  }
}

/** Stripe's documentation names 400 for a bad signature; ours of API calls is a 401. */
function render(error: AppError, now: number): Response {
  const answer = renderError(error, now)
  return error.code === 'invalid_signature'
    ? new Response(answer.body, { status: 400, headers: answer.headers })
    : answer
}

async function verify(request: Request, world: WebhookWorld): Promise<ReceivedEvent> {
  if (!/^\/stripe-webhook\/?$/.test(new URL(request.url).pathname)) throw new AppError('not_found')
  if (request.method !== 'POST') throw new AppError('method_not_allowed', { headers: { allow: 'POST' } })
  const { stripe } = world
  if (!stripe) throw new AppError('billing_not_configured')
  const payload = await readText(request)
  const event = await signed(payload, request.headers.get('stripe-signature') ?? '', stripe.secrets, world.now())
  if (!event) throw await refuseSignature(request.headers, world)
  if (event.livemode !== stripe.livemode) throw await refuseMode(event, world)
  if (event.api_version !== apiVersion) await warnOfVersion(event, world)
  return event
}

async function readText(request: Request): Promise<string> {
  try {
    return new TextDecoder().decode(await readFramedBody(request, bodyLimitBytes))
  } catch (cause) {
    if (cause instanceof BodyTooSlow) throw tooSlow(cause)
    throw new AppError(cause instanceof BodyTooLarge ? 'request_too_large' : 'client_closed_request')
  }
}

async function signed(payload: string, signature: string, secrets: readonly string[], now: number) {
  try {
    return await verifyEvent(payload, signature, secrets, now)
  } catch {
    // Without the cause, which repeats parts of the text.
    throw new AppError('invalid_request_error', {
      message: 'This is signed, and is no event of the form that is known here.',
    })
  }
}

async function refuseSignature(headers: Headers, world: WebhookWorld): Promise<AppError> {
  const ip = clientAddress(headers)
  const dedupeKey = networkOf(ip)
  const details = { has_signature: headers.has('stripe-signature') }
  await raise({ type: 'stripe_signature_invalid', severity: 'medium', details, dedupeKey, ip }, world)
  return new AppError('invalid_signature', { message: 'The signature is missing, wrong or too old.' })
}

async function refuseMode({ id, type, livemode }: ReceivedEvent, world: WebhookWorld): Promise<AppError> {
  const details = { event_id: id, type, livemode }
  await raise(
    { type: 'stripe_livemode_mismatch', severity: 'high', details, dedupeKey: String(livemode), ip: null },
    world,
  )
  return new AppError('invalid_request_error', {
    message: `This is an event of ${livemode ? 'live' : 'test'} mode, and this deployment is not.`,
  })
}

async function warnOfVersion({ api_version }: ReceivedEvent, world: WebhookWorld): Promise<void> {
  const details = { api_version, expected: apiVersion }
  await raise(
    { type: 'stripe_api_version', severity: 'medium', details, dedupeKey: api_version ?? 'none', ip: null },
    world,
  )
}

async function raise(event: SecurityEvent, world: WebhookWorld): Promise<void> {
  if (world.mayRaise(event.type, event.dedupeKey)) await warn(event, world)
}

const event = z.object({
  id: z.string().min(1).max(255),
  type: z.string().min(1).max(255),
  api_version: z.string().nullish(),
  livemode: z.boolean(),
  account: z.string().nullish(),
  created: z.int(),
  // What is only a forecast, such as an upcoming invoice, has no id, or null.
  data: z.object({ object: z.object({ object: z.string().nullish(), id: z.string().nullish() }) }),
})

/** Of Stripe's v2 API: it names what it is about, and has neither a version nor the object. */
const thinEvent = z.object({
  ...{ id: event.shape.id, type: event.shape.type, livemode: z.boolean() },
  object: z.literal('v2.core.event'),
  created: z.iso.datetime({ offset: true }),
  related_object: z.object({ id: z.string() }).nullish(),
})
/** The kind that nearly all are of first: what does not fit one is read again for the other. */
const anyEvent = z.union([event, thinEvent])

const toleranceSeconds = 300
const cryptoProvider = Stripe.createSubtleCryptoProvider()

/**
 * The event, or null when no secret signed this text within the last five minutes. Two secrets hold during a rotation. Throws for
 * what was signed and is no event. `now` is in epoch milliseconds.
 * @internal For tests: by itself in Deno.
 */
export async function verifyEvent(
  payload: string,
  signature: string,
  secrets: readonly string[],
  now: number,
): Promise<ReceivedEvent | null> {
  // Not constructEventAsync, which refuses thin events after it verified them.
  const { signature: verifier } = Stripe.webhooks
  if (!verifier) throw new Error('stripe-node verifies no signatures')
  for (const secret of secrets) {
    try {
      await verifier.verifyHeaderAsync(payload, signature, secret, toleranceSeconds, cryptoProvider, now)
    } catch (error) {
      if (!(error instanceof Stripe.errors.StripeSignatureVerificationError)) throw error
      continue
    }
    return describeEvent(JSON.parse(payload), payload)
  }
  return null
}

function describeEvent(signed: unknown, payload: string): ReceivedEvent {
  const read = anyEvent.parse(signed)
  const { id, type, livemode } = read
  if (!('data' in read)) {
    const created = Math.floor(Date.parse(read.created) / 1000)
    const about = { object: read.object, object_id: read.related_object?.id ?? null }
    return { id, type, livemode, created, payload, api_version: null, account: null, ...about }
  }
  const { api_version, account, created, data } = read
  return {
    ...{ id, type, livemode, created, payload },
    api_version: api_version ?? null,
    account: account ?? null,
    object: data.object.object ?? null,
    object_id: data.object.id ?? null,
  }
}

const perSourceMs = 10_000
const perMinute = 30

/**
 * How often refused deliveries may become a write: whoever sends garbage must not make us do more work than he does. Answers whether this one may be noted: of a type one in ten seconds from a source, and thirty a minute from all. Each type
 * has its own, so that garbage from everywhere does not hide an alert about what Stripe did sign.
 */
export function createRaiseLimit(now: () => number): (type: string, source: string) => boolean {
  let noted: { type: string; source: string; at: number }[] = []
  return (type, source) => {
    const time = now()
    noted = noted.filter(({ at }) => time - at < 60_000)
    const ofType = noted.filter((note) => note.type === type)
    const isTooSoon = ofType.some((note) => note.source === source && time - note.at < perSourceMs)
    if (isTooSoon || ofType.length >= perMinute) return false
    noted.push({ type, source, at: time })
    return true
  }
}

/** The first 24 bits of an IPv4 address, the first three groups of an IPv6 one: neighbours count as one. */
const networkOf = (address: string | null): string =>
  address === null ? 'unknown' : address.split(/[.:]/).slice(0, 3).join('.')
