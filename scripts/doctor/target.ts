/** Which project the doctor looks at, and how it gets in: never by a secret in an argument. */
import { mailFrom, StackError } from '../../stack/config.ts'
import { loadKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { findStack } from '../../stack/state.ts'
import { withPassword } from '../shared/connect-database.ts'
import { connectManagementApi, type ManagementApi, readAccessToken, refuseWrongRef } from '../shared/management-api.ts'
import { noProductionFile, productionFile, readProductionFile } from '../shared/production-file.ts'
import { acceptedBy, type Target } from './check.ts'

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
  const values: Values = { ...(await readValues(choice.envFile)), ...withoutEmpty(env) }
  acceptedBy(values)
  const target = choice.projectRef ? await hostedTarget(choice.projectRef, values) : selfHostedTarget(choice, values)
  return { ...target, values, superuserUrl: null, signingKey: null, ...common }
}

const withoutEmpty = (env: NodeJS.ProcessEnv): Values =>
  Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))

async function readValues(file: string | undefined): Promise<Values> {
  const values = await readProductionFile(file ?? productionFile)
  if (!values && file) throw noProductionFile(file)
  return values ?? {}
}

type Place = Omit<Target, 'sendMailTo' | 'now'>
type Remote = Omit<Place, 'values' | 'superuserUrl' | 'signingKey'>

async function localTarget(env: NodeJS.ProcessEnv): Promise<Place> {
  const { config, state } = findStack(env)
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
  refuseWrongRef(ref)
  const management = connectManagementApi(ref, await readAccessToken(values), values.SUPABASE_API_URL)
  const { publishable, secret } = await management.apiKeys()
  return {
    kind: 'hosted',
    name: `project ${ref}`,
    dbUrl: values.DB_URL ?? (await sessionPooler(management, values.SUPABASE_DB_PASSWORD)),
    apiUrl: (values.SUPABASE_URL ?? `https://${ref}.supabase.co`).replace(/\/+$/, ''),
    publishableKey: values.SUPABASE_PUBLISHABLE_KEY ?? publishable,
    secretKey: values.SUPABASE_SECRET_KEY ?? secret,
    management,
  }
}

/** In session mode, which can be reached by IPv4 and takes whatever a direct connection takes. */
async function sessionPooler(management: ManagementApi, password: string | undefined): Promise<string> {
  if (!password) throw new StackError('Neither DB_URL nor SUPABASE_DB_PASSWORD is set: the database cannot be asked.')
  const pooler = await management.pooler()
  if (!pooler) throw new StackError('The project has no pooler: set DB_URL.')
  const { host, database, userOf } = pooler
  return `postgresql://${userOf('postgres')}:${encodeURIComponent(password)}@${host}:5432/${database}`
}

function selfHostedTarget(choice: Choice, values: Values): Remote {
  const { SUPABASE_DB_PASSWORD: password } = values
  const dbUrl = choice.dbUrl ? withPassword(choice.dbUrl, password).href : values.DB_URL
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
