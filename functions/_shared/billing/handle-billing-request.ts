/** The billing endpoint without its environment: a page to pay on, one to manage what was bought, and a paused subscription that goes on. */
import Stripe from 'stripe'
import { z } from 'zod'
import { type Asker, requireUserToken } from '../auth/identify-caller.ts'
import type { VerifyUserToken } from '../auth/verify-user-token.ts'
import { AppError } from '../errors.ts'
import { type Answer, answerUserCall } from '../http/answer-user-call.ts'
import { readJson } from '../http/read-body.ts'
import { type Wanted, warn } from './billing-database.ts'
import { askForCard, findPaused, resume } from './resume-subscription.ts'
import { forgetCustomer, isCustomerMissing, type ShopWorld, startCheckout } from './start-checkout.ts'

const item = z
  .string()
  .regex(/^[a-z][a-z0-9_]{0,59}$/)
  .optional()
const address = z.string().min(1).max(2_000)
/** Strict: neither a price nor a customer nor a trial of the caller's choice can come in. */
const checkout = z
  .strictObject({ plan_price: item, credit_pack: item, success_url: address, cancel_url: address })
  .refine(({ plan_price, credit_pack }) => (plan_price === undefined) !== (credit_pack === undefined), {
    path: ['plan_price'],
    message: 'give either plan_price or credit_pack.',
  })
const portal = z.strictObject({ return_url: address })
const resumption = z.strictObject({ success_url: address, cancel_url: address })
const acts = z.enum(['checkout', 'portal', 'resume'])
type Act = z.infer<typeof acts>

export type BillingWorld = Omit<ShopWorld, 'stripe'> & {
  /** Undefined when this deployment has no Stripe account. */
  stripe: Stripe | undefined
  verifyUserToken: VerifyUserToken
  returnUrls: readonly string[]
  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}

export function handleBillingRequest(request: Request, world: BillingWorld): Promise<Response> {
  const route = (path: string, requestId: string) => answer(request, path, requestId, world)
  return answerUserCall(request, { name: 'billing', methods: 'POST, OPTIONS', route }, world)
}

async function answer(request: Request, path: string, requestId: string, world: BillingWorld): Promise<Answer> {
  const { data: act } = acts.safeParse(/^\/billing\/(\w+)\/?$/.exec(path)?.[1])
  if (act === undefined) throw new AppError('not_found')
  if (request.method !== 'POST') throw new AppError('method_not_allowed', { headers: { allow: 'POST, OPTIONS' } })
  const { database, stripe, livemode } = world
  if (!stripe) throw new AppError('billing_not_configured')
  const buyer = await requireUserToken(request.headers, 'Billing needs', requestId, world)
  const open = await readers[act](request, world)
  return { status: 200, body: await ofStripe(act, () => open(buyer, { database, stripe, livemode }), world) }
}

type Open = (buyer: Asker, world: ShopWorld) => Promise<Record<string, unknown>>

const readers: Record<Act, (request: Request, world: BillingWorld) => Promise<Open>> = {
  checkout: readCheckout,
  portal: readPortal,
  resume: readResumption,
}

async function readCheckout(request: Request, world: BillingWorld): Promise<Open> {
  const { plan_price = null, credit_pack = null, ...urls } = await readJson(request, checkout)
  const wanted: Wanted = { plan_price, credit_pack, return_urls: requireReturnUrls(urls, world) }
  return async (buyer, shop) => ({ url: await startCheckout(buyer, wanted, shop) })
}

async function readPortal(request: Request, { returnUrls }: BillingWorld): Promise<Open> {
  const { return_url: given } = await readJson(request, portal)
  const return_url = requireReturnUrl(given, returnUrls, 'return_url')
  return async (buyer, shop) => ({ url: await openPortal(buyer, return_url, shop) })
}

async function readResumption(request: Request, world: BillingWorld): Promise<Open> {
  const urls = requireReturnUrls(await readJson(request, resumption), world)
  return async (buyer, shop) => ({ ...(await resumePaused(buyer, urls, shop)) })
}

type Urls = { success_url: string; cancel_url: string }
const requireReturnUrls = ({ success_url, cancel_url }: Urls, { returnUrls }: BillingWorld): Urls => ({
  success_url: requireReturnUrl(success_url, returnUrls, 'success_url'),
  cancel_url: requireReturnUrl(cancel_url, returnUrls, 'cancel_url'),
})

/** With a card it goes on at once; without one the answer leads to a page that takes one, or to the invoice that it waits for. */
async function resumePaused(buyer: Asker, urls: Urls, world: ShopWorld) {
  const customer = await world.database.preparePortal(buyer)
  const paused = await findPaused(customer, world)
  if (!paused) throw new AppError('not_found', { message: 'You have no paused subscription.' })
  const { hasCard, card, payUrl, subscription } = paused
  if (payUrl !== null) return { state: subscription.status, url: payUrl }
  return hasCard || card !== null ? resume(paused, world) : askForCard(buyer.userId, paused, urls, world)
}

async function openPortal(buyer: Asker, return_url: string, world: ShopWorld): Promise<string> {
  const customer = await world.database.preparePortal(buyer)
  try {
    return (await world.stripe.billingPortal.sessions.create({ customer, return_url })).url
  } catch (error) {
    if (!isCustomerMissing(error)) throw error
    await forgetCustomer(customer, error, world)
    // Now it says that there is nothing to manage.
    await world.database.preparePortal(buyer)
    throw error
  }
}

/**
 * When Stripe is not there, has enough of us, or is at the same request, a caller may try again. Any other error is about how
 * something is set up, which the caller cannot change and whoever runs this must hear of.
 */
async function ofStripe<T>(act: Act, ask: () => Promise<T>, world: BillingWorld): Promise<T> {
  try {
    return await ask()
  } catch (cause) {
    if (!(cause instanceof Stripe.errors.StripeError)) throw cause
    if (isPassing(cause)) throw new AppError('billing_unavailable', { cause })
    await warnOfRefusal(act, cause, world)
    throw new AppError('billing_refused', { cause })
  }
}

const { StripeAPIError, StripeConnectionError, StripeRateLimitError } = Stripe.errors
const isPassing = (cause: Stripe.errors.StripeError): boolean =>
  cause.statusCode === 409 ||
  [StripeAPIError, StripeConnectionError, StripeRateLimitError].some((kind) => cause instanceof kind)

/** Names and codes only: what Stripe says may quote an address. Once an hour for each code, however many come. */
function warnOfRefusal(act: Act, cause: Stripe.errors.StripeError, world: BillingWorld): Promise<void> {
  const { type, code, param, statusCode: status, requestId: request_id } = cause
  const details = { type, code, param, status, request_id }
  const about = { type: `stripe_refuses_${act}`, severity: 'high', ip: null } as const
  return warn({ ...about, details, dedupeKey: code ?? param ?? type }, world)
}

/** Of the address as it is sent on; what is written in it as %XX takes three times as many characters as were given. */
const maxUrlLength = 2_000

/** What Stripe puts the session's id in the place of. */
const placeholder = '{CHECKOUT_SESSION_ID}'

/**
 * Where callers may be sent after a checkout: anything else would make our payment pages a way to anywhere. The URL as the standard
 * reads it, so that Stripe cannot read it differently than we do; refused unless it is allowed.
 * @internal For tests: many URLs without a checkout each.
 */
export function requireReturnUrl(given: string, allowed: readonly string[], param: string): string {
  const url = URL.canParse(given) ? new URL(given) : undefined
  if (!url || !allowed.some((prefix) => isBelow(url, new URL(prefix)))) {
    throw new AppError('invalid_request_error', {
      message: `${param}: is not one of the addresses that are allowed here.`,
      param,
    })
  }
  const href = url.href.replaceAll(encodeURI(placeholder), placeholder)
  if (href.length > maxUrlLength)
    throw new AppError('invalid_request_error', {
      message: `${param}: is longer than ${maxUrlLength} characters.`,
      param,
    })
  return href
}

/** The same origin, and a path that goes on after a whole segment: /app allows /app/paid and not /apparel. */
function isBelow(url: URL, prefix: URL): boolean {
  if (url.origin !== prefix.origin || url.username !== '' || url.password !== '') return false
  const path = prefix.pathname.replace(/\/+$/, '')
  return url.pathname === path || url.pathname.startsWith(`${path}/`)
}
