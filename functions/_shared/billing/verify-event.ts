/** Whether a delivery is Stripe's, and what it is. */
import Stripe from 'stripe'
import { z } from 'zod'
import type { ReceivedEvent } from './world.ts'

const event = z.object({
  id: z.string().min(1).max(255),
  type: z.string().min(1).max(255),
  api_version: z.string().nullish(),
  livemode: z.boolean(),
  account: z.string().nullish(),
  created: z.int(),
  data: z.object({ object: z.object({ object: z.string().optional(), id: z.string().optional() }) }),
})

/** Of Stripe's v2 API: it names what it is about, and has neither a version nor the object. */
const thinEvent = z.object({
  ...{ id: event.shape.id, type: event.shape.type, livemode: z.boolean() },
  object: z.literal('v2.core.event'),
  created: z.iso.datetime({ offset: true }),
  related_object: z.object({ id: z.string() }).nullish(),
})
const anyEvent = z.union([thinEvent, event])

const toleranceSeconds = 300
const cryptoProvider = Stripe.createSubtleCryptoProvider()

/**
 * The event, or null when no secret signed this text within the last five minutes. Two secrets hold during a rotation. Throws for
 * what was signed and is no event. `now` is in epoch milliseconds.
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
    return describe(JSON.parse(payload), payload)
  }
  return null
}

function describe(signed: unknown, payload: string): ReceivedEvent {
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
