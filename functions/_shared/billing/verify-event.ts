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
  for (const secret of secrets) {
    try {
      const signed: unknown = await Stripe.webhooks.constructEventAsync(
        payload,
        signature,
        secret,
        undefined,
        cryptoProvider,
        now,
      )
      return describe(signed, payload)
    } catch (error) {
      if (!(error instanceof Stripe.errors.StripeSignatureVerificationError)) throw error
    }
  }
  return null
}

function describe(signed: unknown, payload: string): ReceivedEvent {
  const { id, type, api_version, livemode, account, created, data } = event.parse(signed)
  return {
    ...{ id, type, livemode, created, payload },
    api_version: api_version ?? null,
    account: account ?? null,
    object: data.object.object ?? null,
    object_id: data.object.id ?? null,
  }
}
