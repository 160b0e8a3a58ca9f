/** Where the local stack lives: folders, ports and the real services that take a stand-in's place. */
import { existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import type { FunctionFiles, PlatformConfig } from './platform/config.ts'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))

const envFile = join(root, '.env')

export const functionFiles: FunctionFiles = {
  folder: join(root, 'functions'),
  packages: join(root, 'node_modules'),
  cache: join(root, 'node_modules', '.cache', 'palisade-deno'),
}

/** Auth, ports and the API's schemas, as the Supabase CLI reads them, too. */
export const projectFile = join(root, 'supabase', 'config.toml')

/** Whom mails are from: those of Auth, and those that functions send. */
export const mailFrom = 'Palisade <noreply@palisade.local>'

const url = z.url({ error: 'must be a URL' }).optional()
const wholeNumber = (least: number, most?: number) => {
  const error = `must be a whole number from ${least}${most === undefined ? '' : ` to ${most}`}`
  const number = z.coerce.number({ error }).int({ error }).min(least, { error })
  return most === undefined ? number : number.max(most, { error })
}

const environment = z.object({
  PALISADE_PORT: wholeNumber(1024, 65_500).default(54_321),
  PALISADE_DATA: z.string().min(1).default('.palisade'),
  PALISADE_AUTH_HASH_COST: wholeNumber(4, 16).optional(),
  PALISADE_AUTH_RATE_LIMITS: z.enum(['on', 'off'], { error: 'must be on or off' }).default('on'),
  PALISADE_FUNCTIONS_PROCESSES: wholeNumber(1, 8).default(1),
  PALISADE_POOLER_URL: url,
  PALISADE_DB_URL: url,
  PALISADE_AUTH_URL: url,
  PALISADE_REST_URL: url,
  PALISADE_STORAGE_URL: url,
  PALISADE_EXCHANGES_URL: z
    .literal('real')
    .or(z.url({ error: 'must be a URL, or real' }))
    .optional(),
  PALISADE_EXCHANGES_GAP_MS: wholeNumber(1).optional(),
  STRIPE_SECRET_KEY: z.string().optional(),
  STRIPE_WEBHOOK_SECRETS: z.string().optional(),
  BILLING_RETURN_URLS: z.string().optional(),
})

export type StackConfig = ReturnType<typeof readConfig>

/** Reads the environment (and `.env`, which never overrides it) once; throws one error that names every bad variable. */
export function readConfig(env: NodeJS.ProcessEnv = process.env) {
  if (env === process.env && existsSync(envFile)) process.loadEnvFile(envFile)
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))
  const parsed = environment.safeParse(given)
  if (!parsed.success) {
    const wrong = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new StackError(`The environment is not usable. ${[...new Set(wrong)].join('; ')}. See .env.example.`)
  }
  const vars = parsed.data
  const port = vars.PALISADE_PORT
  const data = resolve(root, vars.PALISADE_DATA)
  // The first has a place among the others; more of them follow after all.
  const functionPorts = [5, 9, 10, 11, 12, 13, 14, 15].slice(0, vars.PALISADE_FUNCTIONS_PROCESSES)
  const urls = {
    api: `http://127.0.0.1:${port}`,
    functions: functionPorts.map((above) => `http://127.0.0.1:${port + above}`),
  }
  const platform: PlatformConfig = {
    urls,
    storageFolder: join(data, 'storage'),
    real: { auth: vars.PALISADE_AUTH_URL, rest: vars.PALISADE_REST_URL, storage: vars.PALISADE_STORAGE_URL },
    rateLimits: vars.PALISADE_AUTH_RATE_LIMITS === 'on',
    mailFrom,
    about: { name: 'palisade', docs: 'README.md' },
  }
  return {
    platform,
    port,
    data,
    ports: {
      api: port,
      db: port + 1,
      console: port + 2,
      mail: port + 3,
      provider: port + 4,
      smtp: port + 6,
      exchanges: port + 7,
      stripe: port + 8,
    },
    files: {
      postgres: join(data, 'postgres'),
      keys: join(data, 'keys.json'),
      state: join(data, 'stack.json'),
      mails: join(data, 'mails.ndjson'),
      stripe: join(data, 'stripe.json'),
    },
    urls: {
      ...urls,
      mail: `http://127.0.0.1:${port + 3}`,
      provider: `http://127.0.0.1:${port + 4}`,
      /** An exchange's base URL is this and its name, as /kraken. Null: the real exchanges' own. */
      exchanges:
        vars.PALISADE_EXCHANGES_URL === 'real'
          ? null
          : (vars.PALISADE_EXCHANGES_URL ?? `http://127.0.0.1:${port + 7}`).replace(/\/+$/, ''),
      /** Null: Stripe's own. */
      stripe: vars.STRIPE_SECRET_KEY === undefined ? `http://127.0.0.1:${port + 8}` : null,
    },
    /** By way of which the functions reach the database; undefined: they go there themselves. */
    pooler: vars.PALISADE_POOLER_URL,
    /** Where a payment may lead back to: origins, or the beginnings of addresses. */
    returnUrls: vars.BILLING_RETURN_URLS ?? `http://localhost:3000,http://127.0.0.1:3000,http://127.0.0.1:${port + 2}`,
    /** Of bcrypt, for passwords; undefined: the real service's. */
    hashCost: vars.PALISADE_AUTH_HASH_COST,
    /** Between two calls to a stand-in exchange; undefined: what the exchange itself asks for. */
    exchangesGapMs: vars.PALISADE_EXCHANGES_GAP_MS,
    real: {
      db: vars.PALISADE_DB_URL,
      ...platform.real,
      exchanges: vars.PALISADE_EXCHANGES_URL,
      stripe: realStripe(vars),
    },
  }
}

/** With a key of Stripe's there is no stand-in, and webhooks need the secret of the endpoint that was made there. */
function realStripe({ STRIPE_SECRET_KEY: secretKey, STRIPE_WEBHOOK_SECRETS: webhookSecrets }: Stripes) {
  if (secretKey === undefined) return undefined
  if (webhookSecrets === undefined)
    throw new StackError(
      'STRIPE_SECRET_KEY is set, so STRIPE_WEBHOOK_SECRETS must be set, too: the signing secret of the webhook endpoint. See .env.example.',
    )
  return { secretKey, webhookSecrets }
}
type Stripes = { STRIPE_SECRET_KEY?: string | undefined; STRIPE_WEBHOOK_SECRETS?: string | undefined }

/** An error that a person can act on: the CLI prints its message alone, without a stack trace. */
export class StackError extends Error {}
