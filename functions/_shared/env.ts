/** The environment, read once when a function starts. A function asks for the variables it uses and sees no others. */
import { z } from 'zod'

const json = z.string().transform((text, context): unknown => {
  try {
    return JSON.parse(text)
  } catch {
    context.addIssue({ code: 'custom', message: 'is not JSON' })
    return z.NEVER
  }
})
const list = (item: z.ZodType<string, string>) =>
  z
    .string()
    .transform((text) => text.split(',').map((part) => part.trim()))
    .pipe(z.array(item).min(1))
const namedKeys = json.pipe(z.record(z.string(), z.string()))

/** Every variable that functions use, most of them given by Supabase, with the form it has. */
export const variables = {
  SUPABASE_URL: z.url().transform((url) => url.replace(/\/+$/, '')),
  SUPABASE_DB_URL: z.url({ protocol: /^postgres(ql)?$/ }),
  /** Ours, as a secret of the functions: the login role `palisade_gateway`, which may only run what an AI call needs. */
  AI_DB_URL: z.url({ protocol: /^postgres(ql)?$/ }).optional(),
  /** Ours: PEM of the authority that signed the certificate of the database. With it, certificate and name are checked. */
  DB_CA_CERT: z
    .string()
    .includes('-----BEGIN CERTIFICATE-----')
    // In a file of secrets it is one line.
    .transform((pem) => pem.replaceAll('\\n', '\n'))
    .optional(),
  SUPABASE_SECRET_KEYS: namedKeys,
  /** The project's public keys. Self-hosted Supabase does not give them: then they are asked for. */
  SUPABASE_JWKS: json.pipe(z.object({ keys: z.array(z.looseObject({ kty: z.string() })) })).optional(),
  /** Asks for them where a gateway wants a key for everything; public itself. */
  SUPABASE_ANON_KEY: z.string().optional(),
  /** Of self-hosted Supabase: what tokens are signed with while the project has no asymmetric key. */
  JWT_SECRET: z.string().min(32).optional(),
  /** Ours: the `iss` of users' tokens, where it is not SUPABASE_URL and /auth/v1. */
  AUTH_ISSUER: z.string().regex(/^\S+$/).optional(),
  /** Ours, as secrets of the functions: smtps://user:password@host:465 and `Name <address>`. */
  SMTP_URL: z.url({ protocol: /^smtps?$/ }),
  MAIL_FROM: z.string().regex(/^[^\r\n]*[^\s@<]+@[^\s@>]+>?$/),
  /** Ours: Stripe's secret or restricted key, for test or live mode. */
  STRIPE_SECRET_KEY: z.string().regex(/^[a-z]+_(test|live)_[\x21-\x7e]+$/),
  /** The signing secret of the webhook endpoint; two, separated by a comma, while it is rotated. */
  STRIPE_WEBHOOK_SECRETS: list(z.string().regex(/^[\x21-\x7e]+$/)),
  /** A stand-in's address; unset, Stripe's own. */
  STRIPE_API_URL: z.url({ protocol: /^https?$/ }),
  /** Milliseconds between two calls to a stand-in exchange; unset, and to the exchanges themselves, it is what each asks for. */
  EXCHANGES_GAP_MS: z.coerce.number().int().min(1),
  /** Where callers may be sent after a checkout: origins or the beginnings of URLs, separated by commas. */
  BILLING_RETURN_URLS: list(z.url({ protocol: /^https?$/ })),
}

const { SUPABASE_URL, SUPABASE_JWKS, SUPABASE_ANON_KEY, JWT_SECRET, AUTH_ISSUER } = variables
/** What a function needs that knows users by their tokens. */
export const tokenVariables = { SUPABASE_URL, SUPABASE_JWKS, SUPABASE_ANON_KEY, JWT_SECRET, AUTH_ISSUER }
export type TokenEnvironment = z.infer<z.ZodObject<typeof tokenVariables>>

/** Throws one error that names everything that is missing or wrong, and shows no value. */
export function readEnv<Schema extends z.ZodObject>(
  schema: Schema,
  get: (name: string) => string | undefined,
): z.infer<Schema> {
  const given = Object.fromEntries(Object.keys(schema.shape).map((name) => [name, givenFor(name, get)]))
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  const wrong = parsed.error.issues.map(({ path, message }) =>
    given[String(path[0])] === undefined ? `${String(path[0])} is missing` : `${path.join('.')}: ${message}`,
  )
  throw new Error(`The environment is not usable: ${[...new Set(wrong)].join('; ')}.`)
}

/** Self-hosted Supabase gives the one legacy key in place of named ones; where there are named ones, the legacy key opens nothing. */
function givenFor(name: string, get: (name: string) => string | undefined): string | undefined {
  const legacy = name === 'SUPABASE_SECRET_KEYS' && !get(name) && get('SUPABASE_SERVICE_ROLE_KEY')
  return legacy ? JSON.stringify({ legacy }) : get(name) || undefined
}
