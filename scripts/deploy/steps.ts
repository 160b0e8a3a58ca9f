/**
 * What a deployment does, in order. Each step looks at the project first and says what it would do, so that it can be shown before,
 * repeated, and gone on with after a failure: nothing about the state of a deployment is kept anywhere else.
 */
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import { z } from 'zod'
import { projectFile, root, StackError } from '../../stack/config.ts'
import { demandCli, remoteOf, runCli } from '../../stack/supabase-cli.ts'
import { connectDatabase } from '../shared/connect-database.ts'
import type { ManagementApi } from '../shared/management-api.ts'
import { newPassword, scramVerifier } from './gateway-login.ts'
import { productionConfig } from './production-config.ts'
import type { Concealer, Production } from './production-env.ts'

export type Look = {
  /** `later`: it needs what a step before it makes, and looks again when its turn comes. */
  state: 'done' | 'do' | 'later'
  says: string
  /** What a person should read before they say yes. */
  shows?: string
}
export type Step = { name: string; look(): Promise<Look>; act(): Promise<void> }

/** Runs SQL as role postgres. Parameters are texts: a statement says what else they are. */
export type Query = (text: string, parameters?: (string | null)[]) => Promise<unknown>

export const done = (says: string): Look => ({ state: 'done', says })
export const toDo = (says: string, shows?: string): Look => ({ state: 'do', says, ...(shows && { shows }) })
const later = (says: string): Look => ({ state: 'later', says })

export const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const isThere = z.array(z.object({ there: z.boolean() })).length(1)

/** Looks only where our schema is: before the first migrations nothing of it can be asked. */
export async function whenThere(query: Query, says: string, look: () => Promise<Look>): Promise<Look> {
  const rows = await query(`select to_regclass('private.deployments') is not null as there`)
  return isThere.parse(rows)[0]?.there ? look() : later(says)
}

export const linkStep = (ref: string): Step => ({
  name: 'link',
  look: async () => {
    const linked = await readFile(join(root, 'supabase', '.temp', 'project-ref'), 'utf8').catch(() => '')
    return linked.trim() === ref ? done('this folder is linked to it') : toDo('links this folder to it')
  },
  act: async () => {
    await demandCli(['link', '--project-ref', ref])
  },
})

// Migrations -----------------------------------------------------------------------------------------------------------

const history = z.array(z.object({ version: z.string(), digest: z.string() }))

/** White space and semicolons are where the CLI splits a file into statements; the rest it keeps, comments too. */
const historyQuery = `
  select version, encode(sha256(convert_to(
    regexp_replace(array_to_string(statements, ''), '[ \\t\\r\\n;]+', '', 'g'), 'UTF8')), 'hex') as digest
  from supabase_migrations.schema_migrations order by version`
const digestOf = (file: string) => sha256(file.replace(/[ \t\r\n;]+/g, ''))

/** `push` has the CLI apply them. */
export const migrationsStep = (query: Query, push: () => Promise<void>): Step => ({
  name: 'migrations',
  look: async () => {
    const pending = await pendingMigrations(query)
    if (pending.length === 0) return done('the database has all of them')
    return toDo(`applies ${pending.length}: ${pending[0]}${pending.length > 1 ? ` to ${pending.at(-1)}` : ''}`)
  },
  act: push,
})

/** The files that the database does not have. Refuses a history that these files do not continue. */
async function pendingMigrations(query: Query): Promise<string[]> {
  const rows = await query(`select to_regclass('supabase_migrations.schema_migrations') is not null as there`)
  const applied = isThere.parse(rows)[0]?.there ? history.parse(await query(historyQuery)) : []
  const folder = join(root, 'supabase', 'migrations')
  const files = (await readdir(folder)).filter((file) => file.endsWith('.sql')).sort()
  for (const { version, digest } of applied) {
    const file = files.find((name) => name.startsWith(`${version}_`))
    if (!file)
      throw new StackError(
        `The database has the migration ${version}, which this version of Palisade does not have. Deploy the version that made it, or a newer one.`,
      )
    if (digestOf(await readFile(join(folder, file), 'utf8')) !== digest)
      throw new StackError(
        `The database has another ${file} than this folder: its baseline was made anew since. Nothing leads from that one to this; deploy to a new project, or bring the database over by hand.`,
      )
  }
  return files.filter((file) => !applied.some(({ version }) => file.startsWith(`${version}_`)))
}

const places = z.array(z.object({ place: z.string() })).length(1)

/** The server and the database in it: the same by whichever way it is asked. */
const placeQuery = `
  select system_identifier || '/' || d.oid as place from pg_control_system(), pg_database d where d.datname = current_database()`

/** The CLI's own way to a hosted database, or the one that .env.production names; passwords go by its environment. */
export async function pushToHosted(
  ref: string,
  { DB_URL, SUPABASE_DB_PASSWORD }: Production,
  query: Query,
): Promise<void> {
  if (!DB_URL) await demandCli(['db', 'push', `--remote=${ref}`, '--include-all', '--yes'], { SUPABASE_DB_PASSWORD })
  else {
    const sql = connectDatabase(DB_URL, { max: 1 })
    const there = await sql.unsafe(placeQuery).finally(() => sql.end())
    // A file that was copied from another project still names that one's.
    if (places.parse([...there])[0]?.place !== places.parse(await query(placeQuery))[0]?.place)
      throw new StackError(`DB_URL in .env.production is not the database of ${ref}: correct it, or take it out.`)
    await pushToUrl(DB_URL)
  }
}

export async function pushToUrl(url: string): Promise<void> {
  const { flag, env } = remoteOf(url)
  await demandCli(['db', 'push', flag, '--include-all', '--yes'], env)
}

// Configuration --------------------------------------------------------------------------------------------------------

/** After the migrations: it turns on hooks that are functions of ours. */
export const configurationStep = (ref: string, production: Production): Step => {
  const push = async (...flags: string[]) => {
    const { text, env } = productionConfig(await readFile(projectFile, 'utf8'), ref, production)
    const folder = await mkdtemp(join(tmpdir(), 'palisade-deploy-'))
    try {
      await mkdir(join(folder, 'supabase'))
      await writeFile(join(folder, 'supabase', 'config.toml'), text)
      return await runCli(['config', 'push', `--remote=${ref}`, '--workdir', folder, ...flags], env)
    } finally {
      await rm(folder, { recursive: true })
    }
  }
  return {
    name: 'configuration',
    look: async () => {
      const { code, output } = await push()
      if (code === 0) return done('the project has every value')
      if (!output.includes('Confirmation required: Push config')) throw pushFailure(output)
      return toDo('changes what is shown', differenceIn(output))
    },
    act: async () => {
      const { code, output } = await push('--yes')
      if (code !== 0) throw pushFailure(output)
    },
  }
}

/** 402 is the answer to what comes with another plan. */
const pushFailure = (output: string): StackError =>
  new StackError(
    `supabase config push: ${output.trim()}${
      /\b402\b/.test(output)
        ? '\nThe plan of the project lacks this. In .env.production AUTH_SESSION_LIMITS=off leaves out the ends of sessions, which come with Pro, and AUTH_TEAM_HOOKS=off the hooks that come with Team.'
        : ''
    }`,
  )

/** The CLI tells its target before, and after it that it asked nobody. */
const differenceIn = (output: string): string =>
  output
    .split('\n')
    .filter(
      (line) =>
        !/^(?:Target:|Comparison scope:|Loading config|Pushing \d|Confirmation required|Re-run with)/.test(line),
    )
    .join('\n')
    .trim()

// Secrets and keys -----------------------------------------------------------------------------------------------------

export const secretsStep = (api: ManagementApi, { functionSecrets }: Production): Step => {
  const changed = async () => {
    const there = await api.secretDigests()
    return new Map([...functionSecrets].filter(([name, value]) => there.get(name) !== sha256(value)))
  }
  return {
    name: 'secrets',
    look: async () => {
      const names = [...(await changed()).keys()]
      return names.length === 0 ? done('the functions have all of them') : toDo(`sets ${names.join(', ')}`)
    },
    act: async () => api.setSecrets(await changed()),
  }
}

const gatewayDigest = z.array(z.object({ digest: z.string().nullable() })).max(1)

/**
 * The login of the function `ai`. Its URL is a secret that cannot be read back, so its digest is noted beside the password: while
 * both belong together, nothing is changed. `keep` puts the URL where the functions read it.
 */
export const gatewayStep = (
  query: Query,
  login: { url(): Promise<string>; current(): Promise<string | undefined>; keep(url: string): Promise<void> },
): Step => ({
  name: 'gateway login',
  look: () =>
    whenThere(query, 'gives palisade_gateway a password', async () => {
      const rows = await query(
        `select value #>> '{}' as digest from private.settings where key = 'deploy.gateway_digest'`,
      )
      const noted = gatewayDigest.parse(rows)[0]?.digest
      if (noted && noted === (await login.current())) return done('palisade_gateway has its password')
      return toDo('gives palisade_gateway a password, and the function ai its AI_DB_URL')
    }),
  act: async () => {
    const url = await login.url()
    const verifier = scramVerifier(decodeURIComponent(new URL(url).password))
    await query(`alter role palisade_gateway password '${verifier}'`)
    await login.keep(url)
    await query(
      `update private.settings set value = to_jsonb($1::text), updated_at = now() where key = 'deploy.gateway_digest'`,
      [sha256(url)],
    )
  },
})

/** On hosted Supabase, where the functions read their secrets from the project. */
export const hostedLogin = (api: ManagementApi, { AI_DB_URL }: Production, secrets: Concealer) => ({
  url: async () => {
    if (AI_DB_URL) return AI_DB_URL
    const password = secrets.add(newPassword())
    return secrets.add(await transactionPooler(api, 'palisade_gateway', password))
  },
  current: async () => {
    const there = (await api.secretDigests()).get('AI_DB_URL')
    return AI_DB_URL && there !== sha256(AI_DB_URL) ? undefined : there
  },
  keep: (url: string) => api.setSecrets(new Map([['AI_DB_URL', url]])),
})

async function transactionPooler(api: ManagementApi, role: string, password: string): Promise<string> {
  const pooler = await api.pooler()
  if (!pooler) throw new StackError('The project has no pooler. Set AI_DB_URL in .env.production yourself.')
  return `postgresql://${pooler.userOf(role)}:${password}@${pooler.host}:${pooler.port}/${pooler.database}`
}

const jobsSeen = z.array(z.object({ is_url: z.boolean(), is_key: z.boolean() })).length(1)

/** What lets pg_cron call the functions: their address in a setting, the secret key in Vault. */
export const jobsStep = (query: Query, functionsUrl: string, secretKey: () => Promise<string>): Step => ({
  name: 'jobs',
  look: () =>
    whenThere(query, 'tells jobs where the functions are, and the key that opens them', async () => {
      const rows = await query(
        `select (private.setting('jobs.functions_url') #>> '{}') is not distinct from $1::text as is_url, exists (
          select from vault.decrypted_secrets where name = 'palisade_secret_key' and decrypted_secret = $2::text) as is_key`,
        [functionsUrl, await secretKey()],
      )
      const [seen] = jobsSeen.parse(rows)
      const missing = [
        ...(seen?.is_url ? [] : ['the address of the functions']),
        ...(seen?.is_key ? [] : ['their key']),
      ]
      return missing.length === 0 ? done('they know address and key') : toDo(`tells them ${missing.join(' and ')}`)
    }),
  act: async () => {
    await query(
      `update private.settings set value = to_jsonb($1::text), updated_at = now() where key = 'jobs.functions_url'`,
      [functionsUrl],
    )
    await query(
      `select case when s.id is null
          then vault.create_secret($1::text, 'palisade_secret_key', 'Secret API key with which jobs call the functions.')::text
          else vault.update_secret(s.id, $1::text)::text end
        from (select 1) one left join vault.secrets s on s.name = 'palisade_secret_key'`,
      [await secretKey()],
    )
  },
})

// Functions and the record ---------------------------------------------------------------------------------------------

export type Source = { commit: string; isDirty: boolean; version: string }

const lastDeployment = z.array(z.object({ commit_sha: z.string(), is_dirty: z.boolean() })).max(1)

async function isDeployed(query: Query, { commit, isDirty }: Source): Promise<boolean> {
  const rows = await query(`select commit_sha, is_dirty from private.deployments order by id desc limit 1`)
  const [last] = lastDeployment.parse(rows)
  return last?.commit_sha === commit && !last.is_dirty && !isDirty
}

/** Their source on the other side cannot be compared, so the commit decides. */
export const functionsStep = (api: ManagementApi, query: Query, ref: string, source: Source): Step => ({
  name: 'functions',
  look: async () => {
    const { functions } = z
      .object({ functions: z.record(z.string(), z.unknown()) })
      .parse(parse(await readFile(projectFile, 'utf8')))
    const names = Object.keys(functions)
    const says = `uploads ${names.join(', ')}`
    const active = (await api.functions()).filter(({ status }) => status === 'ACTIVE').map(({ slug }) => slug)
    if (names.some((name) => !active.includes(name))) return toDo(says)
    return whenThere(query, says, async () =>
      (await isDeployed(query, source)) ? done(`all ${names.length} are of this commit`) : toDo(says),
    )
  },
  act: async () => {
    await demandCli(['functions', 'deploy', '--use-api', `--remote=${ref}`, '--yes'])
  },
})

export const recordStep = (query: Query, source: Source): Step => ({
  name: 'record',
  look: () =>
    whenThere(query, `notes ${source.commit.slice(0, 12)} as deployed`, async () =>
      (await isDeployed(query, source))
        ? done(`${source.commit.slice(0, 12)} is the last that was deployed`)
        : toDo(`notes ${source.commit.slice(0, 12)} as deployed`),
    ),
  act: async () => {
    await query(
      `insert into private.deployments (commit_sha, is_dirty, version) values ($1::text, $2::text::boolean, $3::text)`,
      [source.commit, String(source.isDirty), source.version],
    )
  },
})
