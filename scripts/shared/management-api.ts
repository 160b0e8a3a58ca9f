/** Supabase's Management API: one hosted project, its configuration, secrets, functions and database. */
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { StackError } from '../../stack/config.ts'

export type ManagementApi = ReturnType<typeof connectManagementApi>

const project = z
  .object({
    name: z.string(),
    region: z.string(),
    status: z.string(),
    created_at: z.iso.datetime({ offset: true }),
    database: z.object({ host: z.string() }),
  })
  .transform(({ database, created_at, ...about }) => ({
    ...about,
    createdAt: new Date(created_at),
    // db.REF.supabase.co; everything else of the project is at REF.supabase.co.
    functionsUrl: `https://${database.host.replace(/^db\./, '')}/functions/v1`,
  }))
const keys = z.array(z.object({ name: z.string(), type: z.string().nullish(), api_key: z.string().nullish() }))
const poolers = z.array(
  z.object({
    database_type: z.string().optional(),
    db_user: z.string(),
    db_host: z.string(),
    db_port: z.int(),
    db_name: z.string(),
    pool_mode: z.string().nullish(),
  }),
)
/** Values cannot be read back: each is told by its SHA-256. */
const secrets = z.array(z.object({ name: z.string(), value: z.string() }))
const functions = z.array(z.object({ slug: z.string(), status: z.string() }))
const answerMs = 60_000

export function refuseWrongRef(ref: string): void {
  if (!/^[a-z]{20}$/.test(ref))
    throw new StackError('--project-ref is 20 lower-case letters: those in the address of its dashboard.')
}

/** SUPABASE_ACCESS_TOKEN, or what `supabase login` wrote to its folder. */
export async function readAccessToken(env: NodeJS.ProcessEnv): Promise<string> {
  if (env.SUPABASE_ACCESS_TOKEN) return env.SUPABASE_ACCESS_TOKEN
  const folder = env.SUPABASE_HOME || join(homedir(), '.supabase')
  const token = (await readFile(join(folder, 'access-token'), 'utf8').catch(() => '')).trim()
  if (token === '')
    throw new StackError(
      'Not logged in. Set SUPABASE_ACCESS_TOKEN (https://supabase.com/dashboard/account/tokens) in .env.production.',
    )
  return token
}

export function connectManagementApi(ref: string, token: string, url = 'https://api.supabase.com') {
  const ask = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const name = path || 'the project'
    const response = await fetch(`${url}/v1/projects/${ref}${path && `/${path}`}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      // Nobody but the one who was asked gets the token, or secrets in the body.
      redirect: 'manual',
      signal: AbortSignal.timeout(answerMs),
    }).catch((error: unknown) => {
      const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : ''
      throw new StackError(`Supabase's Management API (${url}) does not answer${cause}.`)
    })
    const text = await response.text().catch(() => {
      throw new StackError(`Supabase's Management API (${url}) does not end its answer to ${name}.`)
    })
    if (!response.ok) throw refusalOf(response.status, text, ref, name)
    if (text === '') return undefined
    const answer = readJson(text)
    // None of its words: what is cut off may be a key.
    if (answer === undefined)
      throw new StackError(`Supabase's Management API (${url}) answers something else than JSON to ${name}.`)
    return answer
  }
  /** What is at /v1/projects/{ref}/PATH, in the form that is asked for. */
  const get = async <Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.output<Schema>> => {
    const { success, data } = schema.safeParse(await ask('GET', path))
    if (!success)
      throw new StackError(
        `Supabase's Management API answers ${path || 'the project'} in a form that is not known here.`,
      )
    return data
  }
  return {
    ref,
    get,
    project: () => get('', project),

    /** Runs SQL as role postgres. What must not get into a log goes into `parameters`. */
    query: (query: string, parameters: (string | null)[] = []): Promise<unknown> =>
      ask('POST', 'database/query', { query, parameters }),

    /** The keys of its API; those of the old kind (JWTs) where there are none of the new one. */
    async apiKeys(): Promise<{ publishable: string | null; secret: string | null }> {
      const found = await get('api-keys?reveal=true', keys)
      const keyOf = (type: string, legacy: string) =>
        (found.find((key) => key.type === type) ?? found.find((key) => key.name === legacy))?.api_key ?? null
      return { publishable: keyOf('publishable', 'anon'), secret: keyOf('secret', 'service_role') }
    },

    /** The digest of every secret of the functions, by its name: SHA-256 of the value. */
    secretDigests: async (): Promise<Map<string, string>> =>
      new Map((await get('secrets', secrets)).map(({ name, value }) => [name, value])),

    setSecrets: async (values: Map<string, string>): Promise<void> => {
      await ask(
        'POST',
        'secrets',
        [...values].map(([name, value]) => ({ name, value })),
      )
    },

    functions: () => get('functions', functions),

    /** The pooler before the primary: `port` is that of its transaction mode, `userOf` tells it the project beside the role. */
    async pooler() {
      const primary = (await get('config/database/pooler', poolers)).find(
        ({ database_type }) => database_type !== 'READ_REPLICA',
      )
      if (!primary) return undefined
      const { db_host: host, db_port, db_user, db_name: database, pool_mode } = primary
      const userOf = (role: string) => (db_user.includes('.') ? `${role}.${ref}` : role)
      return { host, port: pool_mode === 'transaction' ? db_port : 6543, database, userOf }
    },
  }
}

function refusalOf(status: number, text: string, ref: string, name: string): StackError {
  if (status === 401)
    return new StackError(
      'Supabase refuses the access token. Make one at https://supabase.com/dashboard/account/tokens.',
    )
  if (status === 403 || (status === 404 && text.includes('roject')))
    return new StackError(`There is no project ${ref}, or the access token may not do this (${status}).`)
  if (status >= 300 && status < 400)
    return new StackError(
      `Supabase's Management API answers ${status} to ${name}: it leads elsewhere, where nothing is sent.`,
    )
  const message = z.object({ message: z.string() }).safeParse(readJson(text)).data?.message ?? text.slice(0, 200)
  return new StackError(`Supabase's Management API answers ${status} to ${name}: ${message}`)
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
