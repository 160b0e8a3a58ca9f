/** The environment, read once when a function starts. A function asks for the variables it uses and sees no others. */
import { hasFields, isFields, isListOf, isText, isUrl } from './forms.ts'

/** `parse` throws with what is wrong, in words that hold no value. */
export type Variable<Value, IsOptional extends boolean = boolean> = {
  isOptional: IsOptional
  parse(text: string): Value
  optional(): Variable<Value, true>
}

const variable = <Value>(parse: (text: string) => Value): Variable<Value, false> => ({
  isOptional: false,
  parse,
  optional: () => optional(parse),
})
const optional = <Value>(parse: (text: string) => Value): Variable<Value, true> => ({
  isOptional: true,
  parse,
  optional: () => optional(parse),
})

function demand(isRight: boolean, what: string): void {
  if (!isRight) throw new Error(what)
}
const matching = (form: RegExp, what: string) =>
  variable((text) => {
    demand(form.test(text), what)
    return text
  })
const url = (protocol?: RegExp) =>
  variable((text) => {
    demand(isUrl(text.trim(), protocol), 'is no URL, or not of this kind')
    return text.trim()
  })

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error('is not JSON')
  }
}
const list = ({ parse }: Variable<string>) => variable((text) => text.split(',').map((part) => parse(part.trim())))

const isNamedKeys = (given: unknown): given is Record<string, string> =>
  isFields(given) && Object.values(given).every(isText)
/** A list of public keys (JWKS). */
export const hasKeys = hasFields({ keys: isListOf(hasFields({ kty: isText })) })

/** Every variable that functions use, most of them given by Supabase, with the form it has. */
export const variables = {
  SUPABASE_URL: variable((text) => url().parse(text).replace(/\/+$/, '')),
  SUPABASE_DB_URL: url(/^postgres(ql)?$/),
  /** Ours, as a secret of the functions: the login role `palisade_gateway`, which may only run what an AI call needs. */
  AI_DB_URL: url(/^postgres(ql)?$/).optional(),
  /** Ours: PEM of the authority that signed the certificate of the database. With it, certificate and name are checked. */
  DB_CA_CERT: variable((text) => {
    demand(text.includes('-----BEGIN CERTIFICATE-----'), 'is no certificate in PEM')
    // In a file of secrets it is one line.
    return text.replaceAll('\\n', '\n')
  }).optional(),
  SUPABASE_SECRET_KEYS: variable((text) => {
    const keys = readJson(text)
    if (!isNamedKeys(keys)) throw new Error('is not keys by their names')
    return keys
  }),
  /** The project's public keys. Self-hosted Supabase does not give them: then they are asked for. */
  SUPABASE_JWKS: variable((text) => {
    const keys = readJson(text)
    if (!hasKeys(keys)) throw new Error('is not a list of keys')
    return keys
  }).optional(),
  /** Asks for them where a gateway wants a key for everything; public itself. */
  SUPABASE_ANON_KEY: variable((text) => text).optional(),
  /** Of self-hosted Supabase: what tokens are signed with while the project has no asymmetric key. */
  JWT_SECRET: matching(/^.{32,}$/s, 'has less than 32 characters').optional(),
  /** Ours: the `iss` of users' tokens, where it is not SUPABASE_URL and /auth/v1. */
  AUTH_ISSUER: matching(/^\S+$/, 'has a space').optional(),
  /** Ours, as secrets of the functions: smtps://user:password@host:465 and `Name <address>`. */
  SMTP_URL: url(/^smtps?$/),
  MAIL_FROM: matching(/^[^\r\n]*[^\s@<]+@[^\s@>]+>?$/, 'is no address of mail'),
  /** Ours: Stripe's secret or restricted key, for test or live mode. */
  STRIPE_SECRET_KEY: matching(/^[a-z]+_(test|live)_[\x21-\x7e]+$/, 'is no secret key of Stripe'),
  /** The signing secret of the webhook endpoint; two, separated by a comma, while it is rotated. */
  STRIPE_WEBHOOK_SECRETS: list(matching(/^[\x21-\x7e]+$/, 'is empty, or has other characters than printable ones')),
  /** A stand-in's address; unset, Stripe's own. */
  STRIPE_API_URL: url(/^https?$/),
  /** Milliseconds between two calls to a stand-in exchange; unset, and to the exchanges themselves, it is what each asks for. */
  EXCHANGES_GAP_MS: variable((text) => {
    demand(Number.isSafeInteger(Number(text)) && Number(text) >= 1, 'is no whole number of milliseconds')
    return Number(text)
  }),
  /** Where callers may be sent after a checkout: origins or the beginnings of URLs, separated by commas. */
  BILLING_RETURN_URLS: list(url(/^https?$/)),
}

const { SUPABASE_URL, SUPABASE_JWKS, SUPABASE_ANON_KEY, JWT_SECRET, AUTH_ISSUER } = variables
/** What a function needs that knows users by their tokens. */
export const tokenVariables = { SUPABASE_URL, SUPABASE_JWKS, SUPABASE_ANON_KEY, JWT_SECRET, AUTH_ISSUER }
type Asked = Record<string, Variable<unknown>>
type Optional<Of extends Asked> = { [Name in keyof Of]: Of[Name]['isOptional'] extends true ? Name : never }[keyof Of]
type Parsed<Of extends Asked, Name extends keyof Of> = ReturnType<Of[Name]['parse']>
type Environment<Of extends Asked> = { [Name in Exclude<keyof Of, Optional<Of>>]: Parsed<Of, Name> } & {
  [Name in Optional<Of>]?: Parsed<Of, Name> | undefined
}
export type TokenEnvironment = Environment<typeof tokenVariables>

/** Throws one error that names everything that is missing or wrong, and shows no value. */
export function readEnv<Of extends Asked>(asked: Of, get: (name: string) => string | undefined): Environment<Of> {
  const wrong: string[] = []
  const read = (name: string, { isOptional, parse }: Variable<unknown>) => {
    const text = givenFor(name, get)
    if (text === undefined && !isOptional) wrong.push(`${name} is missing`)
    try {
      return text === undefined ? undefined : parse(text)
    } catch (error) {
      wrong.push(`${name}: ${error instanceof Error ? error.message : 'is wrong'}`)
    }
  }
  const values = Object.fromEntries(Object.entries(asked).map(([name, form]) => [name, read(name, form)]))
  if (wrong.length > 0) throw new Error(`The environment is not usable: ${wrong.join('; ')}.`)
  // Each is what its own variable has made of it.
  return values as Environment<Of>
}

/** Self-hosted Supabase gives the one legacy key in place of named ones; where there are named ones, the legacy key opens nothing. */
function givenFor(name: string, get: (name: string) => string | undefined): string | undefined {
  const legacy = name === 'SUPABASE_SECRET_KEYS' && !get(name) && get('SUPABASE_SERVICE_ROLE_KEY')
  return legacy ? JSON.stringify({ legacy }) : get(name) || undefined
}
