/** Run by Deno in billing-in-deno.test.ts: the client for Stripe and the check of signatures, as functions use them. */
import process from 'node:process'
import { verifyEvent } from '../../functions/_shared/billing/handle-webhook-request.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { createStripeReader } from '../../functions/_shared/billing/stripe-reader.ts'

const { STRIPE_API_URL, STRIPE_SECRET_KEY = '', PAYLOAD = '', SIGNATURE = '', SECRET = '' } = process.env
const stripe = createStripe(STRIPE_SECRET_KEY, STRIPE_API_URL)
const reader = createStripeReader(stripe)
const { id } = await stripe.customers.create({ metadata: { made_by: 'deno' } }, { idempotencyKey: 'once' })
const again = await stripe.customers.create({ metadata: { made_by: 'deno' } }, { idempotencyKey: 'once' })
const event = await verifyEvent(PAYLOAD, SIGNATURE, ['another', SECRET], Date.now())
const forged = await verifyEvent(`${PAYLOAD} `, SIGNATURE, [SECRET], Date.now())

console.log(
  JSON.stringify({
    is_one_customer: id === again.id,
    found: (await reader.customer(id)) !== undefined,
    missing: (await reader.subscription('sub_none')) === undefined,
    event: event?.id,
    forged,
  }),
)
