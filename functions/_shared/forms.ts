/**
 * Whether what comes from elsewhere has the form that it should have, for modules that a worker loads before its first answer: the
 * schema library, which says what is wrong, takes a quarter of that time to load.
 */

export type Check<Value> = (given: unknown) => given is Value
type Checked<Of> = Of extends Check<infer Value> ? Value : never
/** What makes a value of another one, or throws. A schema of zod is one, too. */
export type Form<Value> = { parse(given: unknown): Value }
export type Fields = Record<string, unknown>

export const isFields: Check<Fields> = (given): given is Fields =>
  typeof given === 'object' && given !== null && !Array.isArray(given)
export const isText: Check<string> = (given) => typeof given === 'string'
export const isNumber: Check<number> = (given): given is number => typeof given === 'number' && Number.isFinite(given)

/** As PostgreSQL writes one, of whatever version. */
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
export const isUuid: Check<string> = (given): given is string => typeof given === 'string' && uuid.test(given)

/** With a host; `protocol` is what stands before `://`. */
export const isUrl = (text: string, protocol = /^[a-z][a-z0-9+.-]*$/): boolean =>
  /^[^\s:]+:\/\/.*\S$/.test(text) && URL.canParse(text) && protocol.test(new URL(text).protocol.slice(0, -1))

export const isNullOr =
  <Value>(check: Check<Value>): Check<Value | null> =>
  (given): given is Value | null =>
    given === null || check(given)

export const isOptional =
  <Value>(check: Check<Value>): Check<Value | undefined> =>
  (given): given is Value | undefined =>
    given === undefined || check(given)

export type Missing = null | undefined
export const isMissing = (given: unknown): given is Missing => given === null || given === undefined
export const isMissingOr =
  <Value>(check: Check<Value>): Check<Value | Missing> =>
  (given): given is Value | Missing =>
    isMissing(given) || check(given)

export const isListOf =
  <Value>(check: Check<Value>): Check<Value[]> =>
  (given): given is Value[] =>
    Array.isArray(given) && given.every(check)

type Checks = Record<string, Check<unknown>>
type Shape<Of extends Checks> = { [Name in keyof Of]: Checked<Of[Name]> }

/** Fields that are not named may be there, and are not looked at. */
export function hasFields<Of extends Checks>(checks: Of): Check<Shape<Of>> {
  const named = Object.entries(checks)
  return (given): given is Shape<Of> => isFields(given) && named.every(([name, check]) => check(given[name]))
}

/** An answer that is not what was asked for. What it is stays untold: it may hold a secret. */
export class AnotherForm extends Error {
  override readonly name = 'AnotherForm'
}

export function formOf<Value>(check: Check<Value>): Form<Value> {
  return {
    parse(given) {
      if (check(given)) return given
      throw new AnotherForm('the answer has another form')
    },
  }
}
