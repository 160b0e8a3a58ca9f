/** The Edge Function `stripe-webhook`: keeps what Stripe sends, and starts to apply it after the answer. */
import { createTurns } from '../_shared/billing/apply-events.ts'
import { createBillingDatabase } from '../_shared/billing/billing-database.ts'
import { createBillingJobs } from '../_shared/billing/billing-jobs.ts'
import { createRaiseLimit, handleWebhookRequest, type WebhookWorld } from '../_shared/billing/handle-webhook-request.ts'
import { isLiveKey } from '../_shared/billing/stripe-client.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, variables } from '../_shared/env.ts'
import { describeFailure } from '../_shared/failure.ts'

const env = readEnv(
  {
    SUPABASE_DB_URL: variables.SUPABASE_DB_URL,
    DB_CA_CERT: variables.DB_CA_CERT,
    STRIPE_SECRET_KEY: variables.STRIPE_SECRET_KEY.optional(),
    STRIPE_WEBHOOK_SECRETS: variables.STRIPE_WEBHOOK_SECRETS.optional(),
    STRIPE_API_URL: variables.STRIPE_API_URL.optional(),
  },
  (name) => Deno.env.get(name),
)
const { STRIPE_SECRET_KEY: secretKey, STRIPE_WEBHOOK_SECRETS: secrets } = env
const backgroundMs = 20_000

const log = (line: Record<string, unknown>) => console.log(JSON.stringify(line))
const livemode = secretKey !== undefined && isLiveKey(secretKey)
const sql = connectDatabase(env.SUPABASE_DB_URL, { ca: env.DB_CA_CERT })

const world: WebhookWorld = {
  database: createBillingDatabase(sql, livemode),
  stripe: secretKey && secrets ? { secrets, livemode } : undefined,
  mayRaise: createRaiseLimit(Date.now),
  startApplying: starter(),
  now: Date.now,
  log,
}

/** Where nothing may run after an answer, the job does it all. */
function starter(): () => void {
  if (secretKey === undefined || typeof EdgeRuntime === 'undefined') return () => {}
  const account = { secretKey, apiUrl: env.STRIPE_API_URL }
  const { applyEvents } = createBillingJobs({ sql, ...account, applyingMs: backgroundMs, now: Date.now, log })
  const failed = (error: unknown) =>
    log({ level: 'error', message: 'Stripe events were not applied', cause: describeFailure(error) })
  return createTurns(applyEvents, EdgeRuntime.waitUntil, failed)
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handleWebhookRequest(request, world) }
