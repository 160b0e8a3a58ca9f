/** The two ways to a hosted project: Supabase's Management API, and the official CLI. Neither gets a secret as an argument. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { root, StackError } from '../../stack/config.ts'

export type ManagementApi = ReturnType<typeof connectManagementApi>

const project = z
  .object({ name: z.string(), region: z.string(), status: z.string(), database: z.object({ host: z.string() }) })
  .transform(({ database, ...about }) => ({
    ...about,
    // db.REF.supabase.co; everything else of the project is at REF.supabase.co.
    functionsUrl: `https://${database.host.replace(/^db\./, '')}/functions/v1`,
  }))
const keys = z.array(z.object({ type: z.string().nullish(), api_key: z.string().nullish() }))
const poolers = z.array(
  z.object({
    database_type: z.string(),
    db_user: z.string(),
    db_host: z.string(),
    db_port: z.int(),
    db_name: z.string(),
    pool_mode: z.string().nullish(),
  }),
)
const transactionPort = 6543
const answerMs = 60_000

/** SUPABASE_ACCESS_TOKEN, or what `supabase login` wrote to its folder; undefined when there is neither. */
export async function accessToken(env: NodeJS.ProcessEnv): Promise<string | undefined> {
  if (env.SUPABASE_ACCESS_TOKEN) return env.SUPABASE_ACCESS_TOKEN
  const folder = env.SUPABASE_HOME || join(homedir(), '.supabase')
  return (await readFile(join(folder, 'access-token'), 'utf8').catch(() => '')).trim() || undefined
}

export function connectManagementApi(ref: string, token: string, url = 'https://api.supabase.com') {
  const ask = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const noAnswer = (error: unknown) => {
      const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : ''
      throw new StackError(`Supabase's Management API (${url}) does not answer${cause}.`)
    }
    const response = await fetch(`${url}/v1/projects/${ref}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      // The token would stay here, but a body with secrets would be sent wherever the answer leads.
      redirect: 'manual',
      signal: AbortSignal.timeout(answerMs),
    }).catch(noAnswer)
    const text = await response.text().catch(noAnswer)
    if (!response.ok) throw refusalOf(response.status, text, ref)
    if (text === '') return undefined
    const answer = tryJson(text)
    // None of its words: what is cut off may be a key.
    if (answer === undefined)
      throw new StackError(`Supabase's Management API (${url}) answers something else than JSON.`)
    return answer
  }
  return {
    project: async () => project.parse(await ask('GET', '')),

    /** Runs SQL as role postgres. What must not get into a log goes into `parameters`. */
    query: async (query: string, parameters: (string | null)[] = []): Promise<unknown> =>
      ask('POST', '/database/query', { query, parameters }),

    /** The key that opens everything, with which jobs call functions. */
    async secretKey(): Promise<string> {
      const found = keys.parse(await ask('GET', '/api-keys?reveal=true'))
      const key = found.find(({ type }) => type === 'secret')?.api_key
      if (!key) throw new StackError('The project has no secret key (sb_secret_...). Make one in Settings, API Keys.')
      return key
    },

    /** The digest of every secret of the functions, by its name: SHA-256 of the value. */
    async secretDigests(): Promise<Map<string, string>> {
      const found = z.array(z.object({ name: z.string(), value: z.string() })).parse(await ask('GET', '/secrets'))
      return new Map(found.map(({ name, value }) => [name, value]))
    },

    setSecrets: async (secrets: Map<string, string>): Promise<void> => {
      await ask(
        'POST',
        '/secrets',
        [...secrets].map(([name, value]) => ({ name, value })),
      )
    },

    functions: async () =>
      z.array(z.object({ slug: z.string(), status: z.string() })).parse(await ask('GET', '/functions')),

    /** Where functions reach the database as a role, each transaction on another session. */
    async poolerUrl(role: string, password: string): Promise<string> {
      const found = poolers.parse(await ask('GET', '/config/database/pooler'))
      const primary = found.find(({ database_type }) => database_type === 'PRIMARY')
      if (!primary) throw new StackError('The project has no pooler. Set AI_DB_URL in .env.production yourself.')
      const user = primary.db_user.includes('.') ? `${role}.${ref}` : role
      const port = primary.pool_mode === 'transaction' ? primary.db_port : transactionPort
      return `postgresql://${user}:${password}@${primary.db_host}:${port}/${primary.db_name}`
    },
  }
}

function refusalOf(status: number, text: string, ref: string): StackError {
  if (status === 401)
    return new StackError(
      'Supabase refuses the access token. Make one at https://supabase.com/dashboard/account/tokens.',
    )
  if (status === 403 || (status === 404 && text.includes('roject')))
    return new StackError(`There is no project ${ref}, or the access token may not do this (${status}).`)
  const message = z.object({ message: z.string() }).safeParse(tryJson(text)).data?.message ?? text.slice(0, 200)
  return new StackError(`Supabase's Management API answers ${status}: ${message}`)
}

function tryJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

type CliRun = { code: number; output: string }

/**
 * Runs the Supabase CLI of this repository without a terminal: it asks nothing, and what needs a yes says so and changes nothing.
 * `env` is added to what a CLI needs of ours, where secrets belong: arguments can be read by everybody on the machine.
 */
export function runCli(args: string[], env: Record<string, string | undefined> = {}): Promise<CliRun> {
  const passed = Object.entries(process.env).filter(([name]) =>
    /^(?:PATH|HOME|SUPABASE_|PG|XDG_|SSL_|HTTPS?_|NO_PROXY)/.test(name),
  )
  const child = spawn(join(root, 'node_modules', '.bin', 'supabase'), [...args, '--agent', 'no'], {
    cwd: root,
    env: { ...Object.fromEntries(passed), NO_COLOR: '1', SUPABASE_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8')
    stream.on('data', (chunk: string) => {
      output += chunk
    })
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code: code ?? 1, output }))
  })
}

/** The same, and anything but success is an error with what the CLI said. */
export async function demandCli(args: string[], env: Record<string, string | undefined> = {}): Promise<string> {
  const { code, output } = await runCli(args, env)
  if (code !== 0) throw new StackError(`supabase ${args[0]} ${args[1] ?? ''}: ${lastLines(output)}`)
  return output
}

/** What a person needs of a failure: the end of it. */
const lastLines = (output: string): string =>
  output
    .split('\n')
    .filter((line) => /[^\s│]/.test(line) && !/^(?:Target:|Confirmed by|Try rerunning|▲)/.test(line))
    .slice(-6)
    .join('\n')
