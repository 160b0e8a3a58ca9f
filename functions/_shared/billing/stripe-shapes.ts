/** The small parts that Stripe's objects share, as they arrive: any version, expanded or not. */
import { z } from 'zod'

/** A reference to another object: its id, or the object itself where it was expanded; null when there is none. */
export const reference = z
  .union([z.string(), z.object({ id: z.string() }).transform(({ id }) => id)])
  .nullish()
  .transform((id) => id ?? null)

/** Unix seconds, or null. */
export const seconds = z
  .int()
  .nullish()
  .transform((time) => time ?? null)

export const text = z
  .string()
  .nullish()
  .transform((value) => value ?? null)

const ourMetadata = z.object({ palisade_user_id: z.guid().optional(), palisade_checkout_id: z.guid().optional() })

/** What we wrote into the metadata ourselves. Metadata of another form is somebody else's, and says nothing here. */
export const metadata = z.unknown().transform((given) => {
  const { data } = ourMetadata.safeParse(given ?? {})
  return { user_id: data?.palisade_user_id ?? null, checkout_id: data?.palisade_checkout_id ?? null }
})

/** Where a reading comes from: when the database's clock stood so, the reading had not begun yet. */
export type Origin = { read_at: string; deleted: boolean }

/** What every reading begins with. */
export const common = <Name extends string>(
  object: Name,
  { id, livemode }: { id: string; livemode: boolean },
  customer_id: string | null,
  { read_at, deleted }: Origin,
) => ({ object, id, read_at, livemode, customer_id, deleted })
