/** What parameters look like in a form: everything is text, and an empty text takes a value away. */
import { z } from 'zod'

export const text = z.string().max(5000)
export const integer = z
  .string()
  .regex(/^-?\d{1,15}$/, 'Invalid integer')
  .transform(Number)
/** Numbers with a few decimals, as percentages are. */
export const decimal = z
  .string()
  .regex(/^\d{1,9}(\.\d{1,4})?$/, 'Invalid decimal')
  .transform(Number)
export const currency = z
  .string()
  .regex(/^[a-z]{3}$/i, 'Invalid currency')
  .toLowerCase()
export const boolean = z.enum(['true', 'false']).transform((word) => word === 'true')
export const metadata = z.union([
  z.literal('').transform(() => null),
  z.record(z.string().max(40), z.string().max(500)),
])
export const unset = z.literal('').transform(() => null)
/** One of the three ways to say what is taken off. */
const wanted = z.strictObject({
  coupon: z.string().optional(),
  promotion_code: z.string().optional(),
  discount: z.string().optional(),
})
/** An empty text takes them all away. */
export const discounts = unset.or(z.array(wanted).max(20)).optional()
export const rates = unset.or(z.array(z.string()).max(10)).optional()
/** Taken and not acted on: it changes nothing that the stand-in shows. */
export const ignored = z.unknown().optional()
export const expand = z.array(z.string()).max(20).optional()
export const none = z.strictObject({ expand })

const range = z.union([
  integer.transform((at) => ({ gte: at, lte: at })),
  z.strictObject({ gt: integer.optional(), gte: integer.optional(), lt: integer.optional(), lte: integer.optional() }),
])
export const page = {
  limit: integer.pipe(z.number().min(1).max(100)).default(10),
  starting_after: z.string().optional(),
  ending_before: z.string().optional(),
  created: range.optional(),
  expand,
}
export type Page = z.infer<z.ZodObject<typeof page>>

/** New keys join, empty values go, and an empty metadata empties it, as Stripe does. */
export function mergeMetadata(old: Record<string, string>, given: Record<string, string> | null | undefined) {
  if (given === undefined) return old
  if (given === null) return {}
  return Object.fromEntries(Object.entries({ ...old, ...given }).filter(([, value]) => value !== ''))
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> }

/** What was given, without what was left out. */
export function defined<T extends object>(values: T): Defined<T> {
  const given: Defined<T> = { ...values }
  for (const name in given) if (given[name] === undefined) delete given[name]
  return given
}
