/** The Edge Function `billing`: pages of Stripe's for users who buy, and for those who have bought. */
import { createUserTokenVerifier } from '../_shared/auth/verify-user-token.ts'
import { createBillingDatabase } from '../_shared/billing/billing-database.ts'
import { type BillingWorld, handleBillingRequest } from '../_shared/billing/handle-billing-request.ts'
import { createStripe, isLiveKey } from '../_shared/billing/stripe-client.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, tokenVariables, variables } from '../_shared/env.ts'

const { SUPABASE_DB_URL, DB_CA_CERT } = variables
const env = readEnv(
  {
    ...tokenVariables,
    SUPABASE_DB_URL,
    DB_CA_CERT,
    STRIPE_SECRET_KEY: variables.STRIPE_SECRET_KEY.optional(),
    STRIPE_API_URL: variables.STRIPE_API_URL.optional(),
    BILLING_RETURN_URLS: variables.BILLING_RETURN_URLS.optional(),
  },
  (name) => Deno.env.get(name),
)
const { STRIPE_SECRET_KEY: secretKey, BILLING_RETURN_URLS: returnUrls } = env
const livemode = secretKey !== undefined && isLiveKey(secretKey)

const world: BillingWorld = {
  verifyUserToken: createUserTokenVerifier(env, { fetch, now: Date.now }),
  database: createBillingDatabase(connectDatabase(env.SUPABASE_DB_URL, { ca: env.DB_CA_CERT }), livemode),
  stripe: secretKey && returnUrls ? createStripe(secretKey, env.STRIPE_API_URL) : undefined,
  livemode,
  returnUrls: returnUrls ?? [],
  now: Date.now,
  newId: () => crypto.randomUUID(),
  log: (line) => console.log(JSON.stringify(line)),
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handleBillingRequest(request, world) }
