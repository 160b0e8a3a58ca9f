/** The door of every endpoint: what we understand is checked, what we do not know passes through to the provider. */
import { z } from 'zod'
import { AppError } from '../errors.ts'

/** Printable ASCII only: the name goes into jsonb, headers and logs. */
export const modelName = z
  .string()
  .min(1)
  .max(200)
  .regex(/^[\x21-\x7e]+$/, 'is not a model name')

/**
 * The exception to passing through: with these a caller gets another model than the one that was admitted, or is billed for
 * more than tokens, so the hold would not cover the call.
 */
const refusedFields = ['models', 'route', 'preset', 'plugins', 'web_search_options', 'best_of']

export function parseBody<Schema extends z.ZodType>(
  schema: Schema,
  body: Uint8Array,
  alsoRefused: readonly string[] = [],
): z.infer<Schema> {
  const given = parseJson(body)
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    throw invalid('The body must be a JSON object.')
  const refused = [...refusedFields, ...alsoRefused].find((field) => Object.hasOwn(given, field))
  if (refused) throw invalid(`${refused}: is not supported, because it changes what a call costs.`, refused)
  const { data, error } = schema.safeParse(given)
  if (!error) return data
  const [issue] = error.issues
  const param = issue?.path.join('.')
  const isMissing = issue?.path.reduce(fieldOf, given) === undefined
  throw invalid(`${param}: ${isMissing ? 'is missing' : issue?.message}`, param)
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch (cause) {
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.', cause })
  }
}

const fieldOf = (value: unknown, key: PropertyKey): unknown =>
  typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined

const invalid = (message: string, param?: string) => new AppError('invalid_request_error', { message, param })
