/**
 * The webhook without its environment: verify, keep, answer. What an event does is done afterwards by apply-events.ts, so that
 * Stripe never waits for us, and what it sent is never lost to an error of ours.
 */
import { AppError, renderError, toAppError } from '../errors.ts'
import { describeFailure } from '../failure.ts'
import { BodyTooLarge, readFramedBody } from '../http/read-body.ts'
import { clientAddress } from '../http/request-headers.ts'
import { networkOf } from './raise-limit.ts'
import { apiVersion } from './stripe-client.ts'
import { verifyEvent } from './verify-event.ts'
import type { InboxWorld, ReceivedEvent, SecurityEvent } from './world.ts'

const bodyLimitBytes = 1_000_000

export type WebhookWorld = InboxWorld & {
  /** Undefined when this deployment has no Stripe account. */
  stripe: { secrets: readonly string[]; livemode: boolean } | undefined
  /** Whether a security event of this type and source may be written now. */
  mayRaise(type: string, source: string): boolean
  /** Called after an event was kept that is new. */
  startApplying(): void
  now(): number
  log(line: Record<string, unknown>): void
}

export async function handleWebhookRequest(request: Request, world: WebhookWorld): Promise<Response> {
  try {
    const event = await verify(request, world)
    const isNew = await world.receive(event)
    world.log({ level: 'info', message: 'stripe-webhook', event_id: event.id, type: event.type, is_new: isNew })
    if (isNew) world.startApplying()
    return Response.json({ received: true })
  } catch (cause) {
    const error = toAppError(cause)
    const why = error.code === 'internal' ? { cause: describeFailure(error.cause) } : {}
    const level = error.status >= 500 ? 'error' : 'info'
    world.log({ level, message: 'stripe-webhook', error_code: error.code, ...why })
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

/** A warning that cannot be written must not cost the event it is about. */
async function raise(event: SecurityEvent, world: WebhookWorld): Promise<void> {
  if (!world.mayRaise(event.type, event.dedupeKey)) return
  try {
    await world.raise(event)
  } catch (error) {
    world.log({
      level: 'error',
      message: 'a security event was not written',
      type: event.type,
      cause: describeFailure(error),
    })
  }
}
