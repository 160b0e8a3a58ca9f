/** The Edge Function `stripe-webhook`: keeps what Stripe sends, and starts to apply it after the answer. */
import { z } from 'zod'
import { applyEvents, createTurns } from '../_shared/billing/apply-events.ts'
import { createBillingDatabase } from '../_shared/billing/billing-database.ts'
import { createRaiseLimit, handleWebhookRequest, type WebhookWorld } from '../_shared/billing/handle-webhook-request.ts'
import { createStripe, isLiveKey } from '../_shared/billing/stripe-client.ts'
import { createStripeReader } from '../_shared/billing/stripe-reader.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, variables } from '../_shared/env.ts'
import { describeFailure } from '../_shared/failure.ts'

const env = readEnv(
  z.object({
    SUPABASE_DB_URL: variables.SUPABASE_DB_URL,
    STRIPE_SECRET_KEY: variables.STRIPE_SECRET_KEY.optional(),
    STRIPE_WEBHOOK_SECRETS: variables.STRIPE_WEBHOOK_SECRETS.optional(),
    STRIPE_API_URL: variables.STRIPE_API_URL.optional(),
  }),
  (name) => Deno.env.get(name),
)
const { STRIPE_SECRET_KEY: secretKey, STRIPE_WEBHOOK_SECRETS: secrets } = env
const backgroundMs = 20_000

const log = (line: Record<string, unknown>) => console.log(JSON.stringify(line))
const livemode = secretKey !== undefined && isLiveKey(secretKey)
const database = createBillingDatabase(connectDatabase(env.SUPABASE_DB_URL), livemode)

const world: WebhookWorld = {
  database,
  stripe: secretKey && secrets ? { secrets, livemode } : undefined,
  mayRaise: createRaiseLimit(Date.now),
  startApplying: starter(),
  now: Date.now,
  log,
}

/** Where nothing may run after an answer, the job does it all. */
function starter(): () => void {
  if (secretKey === undefined || typeof EdgeRuntime === 'undefined') return () => {}
  const reader = createStripeReader(createStripe(secretKey, env.STRIPE_API_URL))
  const applying = { database, reader, livemode, now: Date.now, log }
  const failed = (error: unknown) =>
    log({ level: 'error', message: 'Stripe events were not applied', cause: describeFailure(error) })
  return createTurns(() => applyEvents(applying, backgroundMs), EdgeRuntime.waitUntil, failed)
}

export default { fetch: (request: Request) => handleWebhookRequest(request, world) }
