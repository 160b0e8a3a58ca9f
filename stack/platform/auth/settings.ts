/** The settings of Auth, REST and Storage, read from the project's config.toml: the same file configures hosted Supabase. */
import { readFileSync } from 'node:fs'
import { parse } from 'smol-toml'
import { z } from 'zod'

const unitsMs = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 }

/** A Go duration ("168h", "1m30s", "0s") in milliseconds. */
export const durationMs = z.string().transform((text, context) => {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|h|m|s)/g)]
  if (text !== '0' && (parts.length === 0 || parts.map(([part]) => part).join('') !== text)) {
    context.addIssue({ code: 'custom', message: `${text} is not a duration such as "168h"` })
    return z.NEVER
  }
  return parts.reduce((sum, [, amount, unit]) => sum + Number(amount) * (unitsMs[unit as keyof typeof unitsMs] ?? 0), 0)
})

const identifier = /^[a-zA-Z_][a-zA-Z0-9_]{0,62}$/

/** The host part of the URI counts for nothing, as in the real service. */
const hook = z.object({ enabled: z.boolean(), uri: z.string() }).transform(({ enabled, uri }, context) => {
  const [, schema = '', name = ''] = /^pg-functions:\/\/[^/]*\/([^/]+)\/([^/]+)$/.exec(uri) ?? []
  if (identifier.test(schema) && identifier.test(name)) return enabled ? { uri, schema, name } : null
  context.addIssue({
    code: 'custom',
    message: `${uri}: the local stack calls pg-functions://host/schema/function only`,
  })
  return z.NEVER
})

/** `env(NAME)` stands for the variable, as the Supabase CLI reads the file. */
function fromEnvironment(value: string): string {
  const name = /^env\((\w+)\)$/.exec(value)?.[1]
  return name ? (process.env[name] ?? '') : value
}

const perFiveMinutes = z.number().int().positive()

const auth = z.object({
  /** Not there: a page of the stack's own. */
  site_url: z.url().optional(),
  additional_redirect_urls: z.array(z.string()).default([]),
  jwt_expiry: z.number().int().positive().max(604_800),
  enable_signup: z.boolean(),
  enable_anonymous_sign_ins: z.boolean().default(false),
  enable_refresh_token_rotation: z.boolean(),
  /** seconds */
  refresh_token_reuse_interval: z.number().int(),
  minimum_password_length: z.number().int().min(6),
  password_requirements: z.enum([
    '',
    'letters_digits',
    'lower_upper_letters_digits',
    'lower_upper_letters_digits_symbols',
  ]),
  /** Bcrypt's. The real service's is 10, and config.toml has no name for it; a stack that is thrown away may do with 4. */
  password_hash_cost: z.number().int().min(4).max(16).default(10),
  sessions: z.object({ timebox: durationMs, inactivity_timeout: durationMs }),
  email: z.object({
    enabled: z.boolean().default(true),
    enable_signup: z.boolean().default(true),
    enable_confirmations: z.boolean(),
    double_confirm_changes: z.boolean(),
    secure_password_change: z.boolean().default(false),
    require_current_password: z.boolean().default(false),
    max_frequency: durationMs.default(60_000),
    otp_length: z.number().int().min(6).max(10),
    /** seconds */
    otp_expiry: z.number().int().positive(),
  }),
  hook: z
    .object({
      before_user_created: hook,
      custom_access_token: hook,
      password_verification_attempt: hook,
      mfa_verification_attempt: hook,
    })
    .partial()
    .default({}),
  rate_limit: z
    .object({
      email_sent: z.number().int().positive().default(30),
      anonymous_users: z.number().int().positive().default(30),
      token_refresh: perFiveMinutes.default(150),
      sign_in_sign_ups: perFiveMinutes.default(30),
      token_verifications: perFiveMinutes.default(30),
    })
    .prefault({}),
  captcha: z
    .object({
      enabled: z.boolean(),
      provider: z.enum(['hcaptcha', 'turnstile']),
      secret: z.string().transform(fromEnvironment),
    })
    .optional(),
  mfa: z
    .object({
      max_enrolled_factors: z.number().int().positive().default(10),
      totp: z.object({ enroll_enabled: z.boolean(), verify_enabled: z.boolean() }).default({
        enroll_enabled: true,
        verify_enabled: true,
      }),
    })
    .prefault({}),
})

const binaryUnits: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }

/** `16MiB` in bytes. */
const size = z
  .string()
  .regex(/^\d+(?:[KMG]i)?B$/)
  .transform((text) => Number.parseInt(text, 10) * (binaryUnits[text.replace(/^\d+/, '')] ?? 1))

const file = z.object({
  api: z.object({ schemas: z.array(z.string()), max_rows: z.number().int() }),
  storage: z.object({ file_size_limit: size.default(50 * 2 ** 20) }).prefault({}),
  auth,
})

type Read = z.infer<typeof file>
export type AuthSettings = Read['auth'] & { site_url: string }
export type ProjectSettings = Read & { auth: AuthSettings }
export type HookName = keyof AuthSettings['hook']

/** `path` is that of the project's config.toml; `sitePort` is where the stack's own page is. */
export function readProjectSettings(path: string, sitePort: number): ProjectSettings {
  const settings = file.parse(parse(readFileSync(path, 'utf8')))
  const { origin } = new URL(settings.auth.site_url ?? `http://127.0.0.1:${sitePort}`)
  return { ...settings, auth: { ...settings.auth, site_url: origin } }
}
