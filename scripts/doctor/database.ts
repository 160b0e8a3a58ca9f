/** The server: its version and extensions, who gets in and how, and what the Auth service calls in it. */
import postgres from 'postgres'
import { reachOf } from '../../stack/host-reach.ts'
import { functions } from '../checks/access-matrix.ts'
import { connectDatabase } from '../shared/connect-database.ts'
import {
  byHand,
  byShell,
  bySql,
  type Check,
  enforceSsl,
  judge,
  type Outcome,
  type Problem,
  type World,
} from './check.ts'

const version: Check = {
  name: 'version',
  tells: 'PostgreSQL is 17, or 15 as older self-hosted images have it.',
  mends: 'Upgrade the project in the dashboard, or the image.',
  async find({ sql }) {
    const [row] = await sql<{ version: string; major: number }[]>`
      select current_setting('server_version') as version, current_setting('server_version_num')::integer / 10000 as major`
    const is = `PostgreSQL ${row?.version.split(' ')[0]}`
    const isKnown = row?.major === 15 || row?.major === 17
    return judge(
      isKnown ? [] : [{ what: `${is} was never tried: 15 and 17 were`, mend: byHand('Move to PostgreSQL 17.') }],
      is,
    )
  },
}

/** What our migrations need, and where each is installed on a new project. */
const needed: Record<string, string> = {
  pg_cron: 'create extension pg_cron;',
  pg_net: 'create extension pg_net with schema extensions;',
  pgcrypto: 'create extension pgcrypto with schema extensions;',
  pgsodium: 'create extension pgsodium;',
  supabase_vault: 'create extension supabase_vault with schema vault cascade;',
}

const extensions: Check = {
  name: 'extensions',
  tells: `The extensions are installed: ${Object.keys(needed).join(', ')}.`,
  mends:
    'Create the one that is missing. What it held (jobs, keys, requests) has to be made again: the other checks say which.',
  async find({ sql }) {
    const rows = await sql<
      { name: string; version: string }[]
    >`select extname as name, extversion as version from pg_extension`
    const there = new Map(rows.map((row) => [row.name, row.version]))
    const missing = Object.entries(needed).filter(([name]) => !there.has(name))
    return judge(
      missing.map(([name, create]) => ({ what: `extension ${name} is missing`, mend: bySql(create) })),
      Object.keys(needed)
        .map((name) => `${name} ${there.get(name)}`)
        .join(', '),
    )
  },
}

const maxSkewMs = 5_000

const clocks: Check = {
  name: 'clocks',
  tells:
    'The clocks of this machine, of the database and of the API agree within five seconds: signatures, codes and tokens depend on them.',
  mends: 'Let the machine that is wrong follow a time server.',
  async find(world) {
    const asked = world.now()
    const [row] = await world.sql<{ at: number }[]>`select extract(epoch from clock_timestamp())::float8 * 1000 as at`
    // The answer was made somewhere between question and arrival.
    const here = (asked + world.now()) / 2
    const skews = [{ of: 'the database', ms: (row?.at ?? 0) - here }]
    if (world.apiUrl) {
      const before = world.now()
      const response = await fetch(`${world.apiUrl}/auth/v1/.well-known/jwks.json`, {
        signal: AbortSignal.timeout(15_000),
      }).catch(() => undefined)
      const at = Date.parse(response?.headers.get('date') ?? '')
      // The header has whole seconds.
      if (!Number.isNaN(at)) skews.push({ of: 'the API', ms: at + 500 - (before + world.now()) / 2 })
    }
    const wrong = skews.filter(({ ms }) => Math.abs(ms) > maxSkewMs)
    return judge(
      wrong.map(({ of, ms }) => ({
        what: `the clock of ${of} is ${(Math.abs(ms) / 1000).toFixed(1)} s ${ms > 0 ? 'ahead of' : 'behind'} this machine's`,
        mend: byShell('timedatectl set-ntp true   # on the machine that is wrong; this one, when both seem to be'),
      })),
      skews.map(({ of, ms }) => `${of} ${(ms / 1000).toFixed(1)} s`).join(', '),
    )
  },
}

const databaseTls: Check = {
  name: 'database-tls',
  tells: 'The database speaks TLS, and refuses a connection without it.',
  mends:
    'Enforce it: in the dashboard (Database, Settings) or with the command that is printed; self-hosted: `hostssl` in pg_hba.conf.',
  async find({ dbUrl, management }) {
    const address = new URL(dbUrl)
    if (reachOf(address.hostname) === 'loopback') return { skip: 'the database is on this machine' }
    // What is tried is the server, not what the URL asks for.
    address.search = ''
    const enforce = management
      ? byShell(enforceSsl(management.ref))
      : byHand('Give the server a certificate (ssl = on) and let pg_hba.conf say hostssl in place of host.')
    const [withTls, without] = await Promise.all([connects(address.href, 'require'), connects(address.href, false)])
    return judge(
      [
        ...(withTls ? [] : [{ what: 'the database does not speak TLS', mend: enforce }]),
        ...(without ? [{ what: 'the database takes connections without TLS', mend: enforce }] : []),
      ],
      'TLS only',
    )
  },
}

async function connects(url: string, ssl: 'require' | false): Promise<boolean> {
  const sql = postgres(url, { max: 1, ssl, connect_timeout: 10, onnotice: () => {} })
  return sql`select 1`
    .then(
      () => true,
      () => false,
    )
    .finally(() => sql.end())
}

const gateway = 'palisade_gateway'

const gatewayRole: Check = {
  name: 'gateway-role',
  tells: `The login of the AI function, ${gateway}, may run what the access matrix says and nothing else, and has a password.`,
  mends:
    'Take away what is too much with the statement that is printed. A password is set as a SCRAM verifier: servers log statements.',
  async find(world) {
    const { look, superuserUrl } = world
    const found = await look(async (sql) => {
      const [role] = await sql<Record<string, boolean>[]>`
        select rolsuper as superuser, rolcreatedb as createdb, rolcreaterole as createrole, rolreplication as replication,
          rolbypassrls as bypassrls, rolcanlogin as login from pg_roles where rolname = ${gateway}`
      const grants = await sql<{ privilege: string; object: string; kind: string }[]>`
        with role as (select oid from pg_roles where rolname = ${gateway}), held as (
          select 'function' as kind, p.oid::regprocedure::text as object, a.privilege_type as privilege
          from role, pg_proc p, aclexplode(p.proacl) a where a.grantee = role.oid
          union all
          select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, a.privilege_type
          from role, pg_class c, aclexplode(c.relacl) a where a.grantee = role.oid
          union all
          select 'table', c.attrelid::regclass::text, a.privilege_type || format(' (%I)', c.attname)
          from role, pg_attribute c, aclexplode(c.attacl) a where a.grantee = role.oid
          union all
          select 'schema', quote_ident(n.nspname), a.privilege_type from role, pg_namespace n, aclexplode(n.nspacl) a where a.grantee = role.oid
          union all
          select 'database', quote_ident(d.datname), a.privilege_type from role, pg_database d, aclexplode(d.datacl) a where a.grantee = role.oid)
        select kind, object, lower(privilege) as privilege from held`
      const members = await sql<{ name: string }[]>`
        select quote_ident(g.rolname) as name from pg_auth_members m join pg_roles g on g.oid = m.roleid join pg_roles r on r.oid = m.member
        where r.rolname = ${gateway}`
      const [settings] = await sql<{ config: string[] | null }[]>`
        select s.setconfig as config from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
        where r.rolname = ${gateway} and s.setdatabase = 0`
      return { role, grants: [...grants], members: [...members], config: settings?.config ?? [] }
    })
    if (!found.role)
      return {
        wrong: [
          {
            what: `role ${gateway} is not there`,
            mend: byHand('It comes with the migrations: see what that check says.'),
          },
        ],
      }
    const problems = [
      ...attributeProblems(found.role),
      ...grantProblems(found.grants),
      ...found.members.map(({ name }) => ({
        what: `${gateway} is a member of ${name}`,
        mend: bySql(`revoke ${name} from ${gateway};`),
      })),
      ...['statement_timeout', 'idle_in_transaction_session_timeout']
        .filter((name) => !found.config.some((one) => one.startsWith(`${name}=`) && !one.endsWith('=0')))
        .map((name) => ({
          what: `${gateway} has no ${name}, and a pooler lets none through`,
          mend: bySql(`alter role ${gateway} set ${name} = '${name === 'statement_timeout' ? '4s' : '5s'}';`),
        })),
      ...(superuserUrl ? await passwordProblems(superuserUrl) : []),
    ]
    const unseen = superuserUrl ? '' : ' (that its password is SCRAM cannot be seen from here)'
    return judge(problems, `${gateway} may run ${found.grants.length - 1} functions and nothing else${unseen}`)
  },
}

function attributeProblems(role: Record<string, boolean>): Problem[] {
  const extra = ['superuser', 'createdb', 'createrole', 'replication', 'bypassrls'].filter((name) => role[name])
  return [
    ...extra.map((name) => ({ what: `${gateway} is ${name}`, mend: bySql(`alter role ${gateway} no${name};`) })),
    ...(role.login ? [] : [{ what: `${gateway} cannot log in`, mend: bySql(`alter role ${gateway} login;`) }]),
  ]
}

function grantProblems(grants: { privilege: string; object: string; kind: string }[]): Problem[] {
  const intended = new Set([
    'usage on schema private',
    ...Object.entries<string>(functions)
      .filter(([, access]) => /\bpalisade_gateway\b/.test(access) && !/\bPUBLIC\b/.test(access))
      .map(([name]) => `execute on function ${name.replaceAll(', ', ',')}`),
  ])
  const held = new Set(grants.map(({ privilege, kind, object }) => `${privilege} on ${kind} ${object}`))
  return [
    ...[...held]
      .filter((one) => !intended.has(one))
      .map((one) => ({
        what: `${gateway} has ${one}`,
        mend: bySql(`revoke ${one} from ${gateway};`),
      })),
    ...[...intended]
      .filter((one) => !held.has(one))
      .map((one) => ({
        what: `${gateway} lacks ${one}`,
        mend: bySql(`grant ${one} to ${gateway};`),
      })),
  ]
}

async function passwordProblems(superuserUrl: string): Promise<Problem[]> {
  const sql = postgres(superuserUrl, { max: 1, onnotice: () => {} })
  const [row] = await sql<{ form: string | null }[]>`
    select split_part(rolpassword, '$', 1) as form from pg_authid where rolname = ${gateway}`.finally(() => sql.end())
  if (row?.form === 'SCRAM-SHA-256') return []
  const mend = byShell('npm stop && npm start   # gives it a new password')
  return [{ what: row?.form ? `the password of ${gateway} is not SCRAM` : `${gateway} has no password`, mend }]
}

const pooler: Check = {
  name: 'pooler',
  tells: `AI_DB_URL logs in as ${gateway} through the pooler in transaction mode, and its statement timeout holds there.`,
  mends: 'Set AI_DB_URL to the transaction pooler (port 6543 on hosted Supabase), as palisade_gateway.',
  async find(world) {
    const { kind, values, management } = world
    const url = values.AI_DB_URL
    if (!url && kind === 'local')
      return { skip: 'the local stack makes a login of its own at every start, without a pooler' }
    if (!url && (await management?.secretDigests())?.has('AI_DB_URL'))
      return {
        skip: 'the functions have AI_DB_URL, and a secret cannot be read back: put it into .env.production to try it',
      }
    if (!url)
      return {
        wrong: [
          {
            what: 'AI_DB_URL is not known here: without it the AI function has all rights of SUPABASE_DB_URL',
            mend: byHand(
              `Give ${gateway} a password and set AI_DB_URL, as docs/operations.md says; then put it into .env.production.`,
            ),
          },
        ],
      }
    return tryPooler(world, url)
  },
}

async function tryPooler({ kind, values }: World, url: string): Promise<Outcome> {
  const mend = byHand(
    'Set AI_DB_URL to postgresql://palisade_gateway.REF:...@POOLER:6543/postgres, and deploy it as a secret of the functions.',
  )
  const { port, username } = new URL(url)
  if (decodeURIComponent(username).split('.')[0] !== gateway)
    return { wrong: [{ what: `AI_DB_URL logs in as ${decodeURIComponent(username)}, not as ${gateway}`, mend }] }
  const problems: Problem[] =
    kind === 'hosted' && port !== '6543'
      ? [{ what: `AI_DB_URL goes to port ${port || '5432'}, which is not the transaction pooler`, mend }]
      : []
  const sql = connectDatabase(url, { max: 1, ca: values.DB_CA_CERT })
  try {
    const [row] = await sql<{ who: string; timeout: string }[]>`
      select current_user as who, setting as timeout from pg_settings where name = 'statement_timeout'`
    const ms = Number(row?.timeout)
    if (row?.who !== gateway) problems.push({ what: `AI_DB_URL leads to the role ${row?.who}`, mend })
    if (!(ms > 0 && ms <= 10_000 && (await isEnded(sql, ms))))
      problems.push({
        what: 'a statement of the AI function does not end in time',
        mend: bySql(`alter role ${gateway} set statement_timeout = '4s';`),
      })
    return judge(problems, `${gateway}, statements end after ${ms / 1000} s`)
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'no answer'
    return { wrong: [...problems, { what: `AI_DB_URL does not log in (${code})`, mend }] }
  } finally {
    await sql.end()
  }
}

/** Tried, and not read: a pooler may hand out a session that began before the role had its setting. */
const isEnded = (sql: postgres.Sql, ms: number): Promise<boolean> =>
  sql`select pg_sleep(${ms / 1000 + 1})`.then(
    () => false,
    (error: unknown) => error instanceof postgres.PostgresError && error.code === '57014',
  )

const maxAge = 1_000_000_000

const health: Check = {
  name: 'transaction-ids',
  tells: 'The database is far from running out of transaction ids.',
  mends: 'End transactions and replication slots that hold autovacuum back, then vacuum.',
  async find({ sql }) {
    const [row] = await sql<{ age: number; size: string }[]>`
      select age(datfrozenxid) as age, pg_size_pretty(pg_database_size(datname)) as size
      from pg_database where datname = current_database()`
    const millions = Math.round((row?.age ?? 0) / 1_000_000)
    const isOld = (row?.age ?? 0) > maxAge
    return judge(
      isOld
        ? [
            {
              what: `the oldest transaction id is ${millions} million old, of 2,000 million`,
              mend: bySql('vacuum (freeze);'),
            },
          ]
        : [],
      `${millions} million of 2,000 million used; the database has ${row?.size}`,
    )
  },
}

export const ofDatabase: Check[] = [version, extensions, clocks, databaseTls, gatewayRole, pooler, health]
