/** A customer as a reading. One that was deleted answers with its id and nothing else. */
import { z } from 'zod'
import { common, metadata, type Origin } from './stripe-shapes.ts'

const customer = z.object({
  id: z.string(),
  livemode: z.boolean().optional(),
  deleted: z.boolean().optional(),
  metadata: metadata.optional(),
})

export type CustomerReading = ReturnType<typeof customerReading>

export function customerReading(raw: unknown, { read_at, deleted }: Origin, livemode: boolean) {
  const read = customer.parse(raw)
  const origin = { read_at, deleted: deleted || read.deleted === true }
  return {
    ...common('customer', { id: read.id, livemode: read.livemode ?? livemode }, read.id, origin),
    user_id: read.metadata?.user_id ?? null,
  }
}
