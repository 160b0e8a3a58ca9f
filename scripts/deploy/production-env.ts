/** What only a real project has: the file .env.production, checked before anything is sent anywhere. */
import { basename } from 'node:path'
import { z } from 'zod'
import { type Variable, variables } from '../../functions/_shared/env.ts'
import { StackError } from '../../stack/config.ts'
import { isPublicAddress, reachOf } from '../../stack/host-reach.ts'
import { acceptedNames } from '../doctor/check.ts'
import { noProductionFile, readProductionFile } from '../shared/production-file.ts'

export type Production = Awaited<ReturnType<typeof readProduction>>

/** For the deployment and the doctor; functions never see them. */
const ofDeployment = [
  ...['SITE_URL', 'REDIRECT_URLS', 'CAPTCHA_PROVIDER', 'CAPTCHA_SECRET', 'AUTH_TEAM_HOOKS', 'DB_URL', 'AI_DB_URL'],
  ...['SUPABASE_ACCESS_TOKEN', 'SUPABASE_DB_PASSWORD', 'SUPABASE_URL', 'SUPABASE_SECRET_KEY'],
  ...[
    'SUPABASE_PUBLISHABLE_KEY',
    'ANON_KEY',
    'SERVICE_ROLE_KEY',
    'ACCESS_TOKEN',
    'DOCTOR_ACCEPTED',
    'AUTH_SESSION_LIMITS',
  ],
]

const isPublic = (text: string): boolean => !/^http:/i.test(text.trim()) && isPublicAddress(text)

/** A wildcard for the scheme or for the whole host, as `https://**`, leads a sign-in to anybody. */
const isSomebodys = (text: string): boolean => !/^(?:[^:]*\*[^:]*:|https:\/\/\*+(?:[/:?#]|$))/.test(text)

const notPublic = 'must be https, and no address of this machine or of a private network'
const publicUrl = z
  .string()
  .refine((text) => text.startsWith('https://') && isPublic(text), notPublic)
  .refine((text) => !text.includes('@'), 'must hold no login')
const list = z.string().transform((text) => text.split(',').map((part) => part.trim()))
const publicUrls = list.pipe(
  z.array(
    z
      .string()
      .refine(isPublic, notPublic)
      .refine(isSomebodys, 'must name scheme and host: with * alone it is any address'),
  ),
)
const postgresUrl = z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres URL' })

/** As the functions read it. */
const asRead = <Value>({ parse }: Variable<Value>) =>
  z.string().transform((text, context) => {
    try {
      return parse(text)
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : 'is wrong' })
      return z.NEVER
    }
  })

const file = z.object({
  SITE_URL: publicUrl.optional(),
  REDIRECT_URLS: publicUrls.optional(),
  SMTP_URL: asRead(variables.SMTP_URL)
    .refine((text) => !['loopback', 'machine'].includes(reachOf(new URL(text).hostname)), 'must not be on this machine')
    .optional(),
  MAIL_FROM: asRead(variables.MAIL_FROM).optional(),
  CAPTCHA_PROVIDER: z.enum(['turnstile', 'hcaptcha'], 'must be turnstile or hcaptcha').optional(),
  CAPTCHA_SECRET: z.string().optional(),
  AUTH_TEAM_HOOKS: z.enum(['on', 'off'], 'must be on or off').default('off'),
  AUTH_SESSION_LIMITS: z.enum(['on', 'off'], 'must be on or off').default('on'),
  DOCTOR_ACCEPTED: acceptedNames.optional(),
  STRIPE_SECRET_KEY: asRead(variables.STRIPE_SECRET_KEY).optional(),
  STRIPE_WEBHOOK_SECRETS: asRead(variables.STRIPE_WEBHOOK_SECRETS).optional(),
  BILLING_RETURN_URLS: publicUrls.optional(),
  DB_URL: postgresUrl.optional(),
  AI_DB_URL: postgresUrl
    .refine((text) => /^[\x21-\x7e]+$/.test(decodeURIComponent(new URL(text).password)), 'needs a password of ASCII')
    .optional(),
  SUPABASE_ACCESS_TOKEN: z
    .string()
    .regex(/^sbp_(?:oauth_|v0_)?[a-f0-9]{40}$/, 'is not an access token')
    .optional(),
  SUPABASE_DB_PASSWORD: z.string().optional(),
  SUPABASE_URL: publicUrl.optional(),
  SUPABASE_SECRET_KEY: z.string().optional(),
})

/** `path` is that of the file. Every refusal says what mends it, and shows no value. */
export async function readProduction(path: string) {
  const given = await readProductionFile(path)
  if (!given) throw noProductionFile(path)
  const parsed = file.safeParse(given)
  const wrong = [
    ...(parsed.error?.issues.map(({ path: at, message }) => `${String(at[0])} ${message}`) ?? []),
    ...Object.keys(given).flatMap((name) =>
      /^[A-Z][A-Z0-9_]*$/.test(name) ? [] : [`${name} is not written as a variable, A_NAME`],
    ),
    ...Object.keys(given).flatMap((name) =>
      name.startsWith('PALISADE_') || (name.startsWith('SUPABASE_') && !ofDeployment.includes(name))
        ? [`${name} is not a secret of the functions: remove it`]
        : [],
    ),
    ...needsOther(given, 'SMTP_URL', 'MAIL_FROM'),
    ...needsOther(given, 'CAPTCHA_PROVIDER', 'CAPTCHA_SECRET'),
  ]
  if (!parsed.success || wrong.length > 0)
    throw new StackError(`${basename(path)} is not usable. ${[...new Set(wrong)].join('; ')}.`)
  const functionSecrets = new Map(Object.entries(given).filter(([name]) => !ofDeployment.includes(name)))
  return { ...parsed.data, functionSecrets }
}

function needsOther(given: Record<string, string>, one: string, other: string): string[] {
  if ((given[one] === undefined) === (given[other] === undefined)) return []
  return [given[one] === undefined ? `${other} needs ${one}, too` : `${one} needs ${other}, too`]
}

export type Concealer = ReturnType<typeof concealer>

const notSecret = ['MAIL_FROM', 'BILLING_RETURN_URLS']

/** Takes every secret out of what is printed, wherever it comes from: what the CLI says is not ours. */
export function concealer(production: Production) {
  const secrets = new Set<string>()
  const add = (secret: string): string => {
    secrets.add(secret)
    return secret
  }
  const { functionSecrets, SMTP_URL, DB_URL, AI_DB_URL } = production
  for (const [name, value] of functionSecrets) if (!notSecret.includes(name)) add(value)
  for (const url of [SMTP_URL, DB_URL, AI_DB_URL]) {
    if (!url) continue
    add(url)
    add(new URL(url).password)
    add(decodeURIComponent(new URL(url).password))
  }
  const { CAPTCHA_SECRET, SUPABASE_ACCESS_TOKEN, SUPABASE_DB_PASSWORD, SUPABASE_SECRET_KEY } = production
  for (const secret of [CAPTCHA_SECRET, SUPABASE_ACCESS_TOKEN, SUPABASE_DB_PASSWORD, SUPABASE_SECRET_KEY])
    if (secret) add(secret)
  secrets.delete('')
  return {
    /** A secret that came to be known on the way. */
    add,
    hide: (text: string): string =>
      // The longest first: one may be part of another.
      [...secrets].sort((a, b) => b.length - a.length).reduce((shown, secret) => shown.replaceAll(secret, '***'), text),
  }
}
