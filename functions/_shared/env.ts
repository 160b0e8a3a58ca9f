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
  SUPABASE_JWKS: json.pipe(z.object({ keys: z.array(z.looseObject({ kty: z.string() })).min(1) })),
  SUPABASE_PUBLISHABLE_KEYS: namedKeys,
  SUPABASE_SECRET_KEYS: namedKeys,
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

/** Throws one error that names everything that is missing or wrong, and shows no value. */
export function readEnv<Schema extends z.ZodObject>(
  schema: Schema,
  get: (name: string) => string | undefined,
): z.infer<Schema> {
  const given = Object.fromEntries(Object.keys(schema.shape).map((name) => [name, get(name) || undefined]))
  const parsed = schema.safeParse(given)
  if (parsed.success) return parsed.data
  const wrong = parsed.error.issues.map(({ path, message }) =>
    given[String(path[0])] === undefined ? `${String(path[0])} is missing` : `${path.join('.')}: ${message}`,
  )
  throw new Error(`The environment is not usable: ${[...new Set(wrong)].join('; ')}.`)
}
