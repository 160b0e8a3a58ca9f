/** Which project the doctor looks at, and how it gets in: never by a secret in an argument. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseEnv } from 'node:util'
import { mailFrom, readConfig, root, StackError } from '../../stack/config.ts'
import { loadKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { runningStack } from '../../stack/state.ts'
import type { Target } from './check.ts'
import { apiKeys, createManagement, type Management, poolers } from './management.ts'

export const targetHelp = `Target: the local stack that runs; or
  --project-ref REF   a project on supabase.com: SUPABASE_ACCESS_TOKEN, and DB_URL or SUPABASE_DB_PASSWORD
  --db-url URL        a self-hosted one; without a password in it, which is SUPABASE_DB_PASSWORD (or PGPASSWORD). Or DB_URL.
                      Its API: SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY (or ANON_KEY, SERVICE_ROLE_KEY)
  --env-file FILE     where variables are that the environment does not have (mode 600); .env.production when it is there.
                      Secrets of the functions in it are tried: SMTP_URL, MAIL_FROM, AI_DB_URL, STRIPE_WEBHOOK_SECRETS, keys of providers`

export type Choice = { projectRef?: string; dbUrl?: string; envFile?: string; sendMailTo?: string }

type Values = Partial<Record<string, string>>

export async function readTarget(choice: Choice, env: NodeJS.ProcessEnv = process.env): Promise<Target> {
  const isRemote = Boolean(choice.projectRef || choice.dbUrl || choice.envFile || env.DB_URL)
  const common = { sendMailTo: choice.sendMailTo ?? null, now: Date.now }
  if (!isRemote) return { ...(await localTarget(env)), ...common }
  if (choice.projectRef && choice.dbUrl) throw new StackError('Either --project-ref or --db-url; see --help.')
  const values: Values = { ...readValues(choice.envFile), ...withoutEmpty(env) }
  const target = choice.projectRef ? await hostedTarget(choice.projectRef, values) : selfHostedTarget(choice, values)
  return { ...target, values, superuserUrl: null, signingKey: null, ...common }
}

const withoutEmpty = (env: NodeJS.ProcessEnv): Values =>
  Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))

/** Secrets lie in it: nobody else may read it. */
function readValues(file: string | undefined): Values {
  const path = file ?? join(root, '.env.production')
  if (!existsSync(path)) {
    if (file) throw new StackError(`${file} is not there.`)
    return {}
  }
  if ((statSync(path).mode & 0o077) !== 0) throw new StackError(`${path} can be read by others. Run: chmod 600 ${path}`)
  return withoutEmpty(parseEnv(readFileSync(path, 'utf8')))
}

type Place = Omit<Target, 'sendMailTo' | 'now'>
type Remote = Omit<Place, 'values' | 'superuserUrl' | 'signingKey'>

async function localTarget(env: NodeJS.ProcessEnv): Promise<Place> {
  const config = readConfig(env)
  const state = runningStack(config)
  if (!state)
    throw new StackError('No stack runs. Start one with "npm start", or name a target: see "npm run doctor -- --help".')
  if (!state.ready) throw new StackError('The stack is still starting; ask again in a moment.')
  const keys = await loadKeys(config.files.keys)
  const { real, ports } = config
  const provider = env.OPENROUTER_API_KEY ? { OPENROUTER_API_KEY: env.OPENROUTER_API_KEY } : {}
  return {
    kind: 'local',
    name: `the local stack at ${config.urls.api}`,
    dbUrl: real.db ?? localDbUrl(ports.db, keys, 'postgres'),
    superuserUrl: real.db ? null : localDbUrl(ports.db, keys, 'supabase_admin'),
    apiUrl: config.urls.api,
    publishableKey: keys.publishableKey,
    secretKey: keys.secretKey,
    values: {
      SMTP_URL: `smtp://127.0.0.1:${ports.smtp}`,
      MAIL_FROM: mailFrom,
      STRIPE_SECRET_KEY: real.stripe?.secretKey ?? keys.stripe.secretKey,
      STRIPE_WEBHOOK_SECRETS: real.stripe?.webhookSecrets ?? keys.stripe.webhookSecret,
      ...provider,
    },
    signingKey: real.auth ? null : keys.signingKey,
    management: null,
  }
}

async function hostedTarget(ref: string, values: Values): Promise<Remote> {
  if (!/^[a-z]{20}$/.test(ref)) throw new StackError('--project-ref is the 20 letters of the project.')
  const { SUPABASE_ACCESS_TOKEN: token, SUPABASE_API_URL } = values
  if (!token)
    throw new StackError('SUPABASE_ACCESS_TOKEN is not set: make one at supabase.com/dashboard/account/tokens.')
  const management = createManagement(ref, token, SUPABASE_API_URL)
  const keys = await management.get('api-keys?reveal=true', apiKeys)
  const keyOf = (type: string, legacy: string) =>
    (keys.find((key) => key.type === type) ?? keys.find((key) => key.name === legacy))?.api_key ?? null
  return {
    kind: 'hosted',
    name: `project ${ref}`,
    dbUrl: values.DB_URL ?? (await sessionPooler(management, values.SUPABASE_DB_PASSWORD)),
    apiUrl: (values.SUPABASE_URL ?? `https://${ref}.supabase.co`).replace(/\/+$/, ''),
    publishableKey: values.SUPABASE_PUBLISHABLE_KEY ?? keyOf('publishable', 'anon'),
    secretKey: values.SUPABASE_SECRET_KEY ?? keyOf('secret', 'service_role'),
    management,
  }
}

/** As deploy takes it: what is in an argument everybody on this machine can read. */
function withPassword(given: string, password: string | undefined): string {
  if (/^\w+:\/\/[^@/]*:[^@/]+@/.test(given))
    throw new StackError('A password in an argument can be read by everybody on this machine: put the URL into DB_URL.')
  if (!password || !URL.canParse(given)) return given
  const url = new URL(given)
  url.password = encodeURIComponent(password)
  return url.href
}

/** In session mode, which can be reached by IPv4 and takes whatever a direct connection takes. */
async function sessionPooler(management: Management, password: string | undefined): Promise<string> {
  if (!password) throw new StackError('Neither DB_URL nor SUPABASE_DB_PASSWORD is set: the database cannot be asked.')
  const all = await management.get('config/database/pooler', poolers)
  const primary = all.find((pooler) => pooler.database_type !== 'READ_REPLICA')
  if (!primary) throw new StackError('The project has no pooler: set DB_URL.')
  const { db_host, db_user, db_name } = primary
  return `postgresql://${db_user}:${encodeURIComponent(password)}@${db_host}:5432/${db_name}`
}

function selfHostedTarget(choice: Choice, values: Values): Remote {
  const { SUPABASE_DB_PASSWORD: password } = values
  const dbUrl = choice.dbUrl ? withPassword(choice.dbUrl, password) : values.DB_URL
  if (!dbUrl) throw new StackError('DB_URL is neither in the environment nor in the file.')
  // What self-hosted Supabase calls its keys, and what `status` prints for a stack.
  const { SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY, ANON_KEY, SERVICE_ROLE_KEY } = values
  const { PUBLISHABLE_KEY, SECRET_KEY } = values
  const apiUrl = (values.SUPABASE_URL ?? values.API_URL)?.replace(/\/+$/, '') ?? null
  return {
    kind: 'self-hosted',
    name: apiUrl ?? 'the database of DB_URL',
    dbUrl,
    apiUrl,
    publishableKey: SUPABASE_PUBLISHABLE_KEY ?? ANON_KEY ?? PUBLISHABLE_KEY ?? null,
    secretKey: SUPABASE_SECRET_KEY ?? SERVICE_ROLE_KEY ?? SECRET_KEY ?? null,
    management: null,
  }
}
