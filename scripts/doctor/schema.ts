/** The schema: which migrations made it, whether it is still theirs, and who may do what in it. */
import { type AccessDifference, accessDifferences } from '../checks/access.ts'
import { byHand, byShell, bySql, type Check, judge, literal, type Mend, type Problem, type World } from './check.ts'
import { readThings, type Thing } from './reference.ts'

const migrations: Check = {
  name: 'migrations',
  tells: 'Every migration of supabase/migrations is noted as applied, and none that is not there.',
  mends:
    'Apply what is pending with the CLI. Where everything is there and only the note is missing, the note is written.',
  async find(world) {
    const { versions } = await world.reference()
    const applied = await appliedVersions(world)
    const isWhole = (await differences(world)).length === 0
    const note = 'supabase_migrations.schema_migrations'
    const pending = versions.filter((version) => !applied.has(version))
    const unknown = [...applied].filter((version) => !versions.includes(version))
    return judge(
      [
        ...pending.map((version) => ({
          what: `migration ${version} is not noted as applied${isWhole ? ', though all that it makes is there' : ''}`,
          mend: isWhole
            ? bySql(`insert into ${note} (version) values (${literal(version)});`)
            : byShell(`npx supabase db push ${pushTarget(world)}`),
        })),
        ...unknown.map((version) => ({
          what: `migration ${version} was applied and is not in supabase/migrations`,
          mend: isWhole
            ? bySql(`delete from ${note} where version = ${literal(version)};`)
            : byHand(
                'Another version of Palisade was here: check out the commit that was deployed, or go on to one that has it.',
              ),
        })),
      ],
      `${applied.size} migrations, the last is ${[...applied].sort().at(-1) ?? 'none'}`,
    )
  },
}

const pushTarget = ({ management }: World) => `--remote=${management?.ref ?? 'postgresql://USER@HOST:PORT/postgres'}`

async function appliedVersions({ look }: World): Promise<Set<string>> {
  const rows = await look(async (sql) => {
    const [table] = await sql`select to_regclass('supabase_migrations.schema_migrations') is not null as there`
    return table?.there ? sql`select version from supabase_migrations.schema_migrations` : []
  })
  return new Set(rows.map(({ version }) => String(version)))
}

const drift: Check = {
  name: 'drift',
  tells:
    'Tables, columns, constraints, indexes, triggers, functions, views, policies and buckets, and their owners, are those that the migrations make.',
  mends:
    'Undo what was done by hand with the statement that is printed, or write it into sql/ and make a migration of it.',
  async find(world) {
    const applied = await appliedVersions(world)
    const found = await differences(world)
    const { versions, things } = await world.reference()
    const isBehind = versions.some((version) => !applied.has(version))
    if (isBehind && found.length > 0) return { skip: 'migrations are missing: apply them first' }
    return judge(found, `${things.size} objects are those of the migrations`)
  },
}

async function differences(world: World): Promise<Problem[]> {
  const { things: wanted } = await world.reference()
  const found = await world.look(readThings)
  const gone = [...wanted.values()].filter((thing) => !found.has(keyOf(thing)) && !isPartOfMissing(thing, found))
  const extra = [...found.values()].filter((thing) => !wanted.has(keyOf(thing)) && !isPartOfMissing(thing, wanted))
  const changed = [...wanted.values()].flatMap((thing) => {
    const other = found.get(keyOf(thing))
    const isOther = other && other.looks !== thing.looks
    return isOther ? [{ what: `${keyOf(thing)} differs from the migrations`, mend: mendOfChanged(thing, other) }] : []
  })
  return [
    ...gone.map((thing) => ({ what: `${keyOf(thing)} is missing`, mend: mendOfMissing(thing) })),
    ...extra.map((thing) => ({
      what: `${keyOf(thing)} is in no migration`,
      mend: thing.remove ? bySql(thing.remove) : byHand('Remove it, or write it into a migration.'),
    })),
    ...changed,
  ]
}

const keyOf = ({ kind, name }: Thing) => `${kind} ${name}`

/** What belongs to a table that is missing itself says nothing more. */
const isPartOfMissing = ({ kind, name }: Thing, there: Map<string, Thing>) => {
  if (kind === 'owner') return !there.has(name.replace(/^of /, ''))
  const table =
    kind === 'column' ? name.slice(0, name.lastIndexOf('.')) : / on ((?:public|private)\.\S+)$/.exec(name)?.[1]
  return table !== undefined && !['table', 'type', 'view'].some((of) => there.has(`${of} ${table}`))
}

function mendOfMissing(thing: Thing): Mend {
  if (thing.kind === 'column') return bySql(`${thing.create}${thing.looks};`)
  if (thing.create) return bySql(thing.create)
  return byHand(`Take it from supabase/migrations, where it is made, or restore a backup: what was in it is gone.`)
}

function mendOfChanged(wanted: Thing, found: Thing): Mend {
  if (['function', 'view', 'owner'].includes(wanted.kind)) return bySql(wanted.create)
  if (wanted.remove && wanted.create && wanted.kind !== 'column') return bySql(`${found.remove} ${wanted.create}`)
  return byHand(`It should be "${wanted.looks}" and is "${found.looks}": alter it, or write a migration.`)
}

const access: Check = {
  name: 'access',
  tells: 'Grants, row-level security, definer functions and policies are those of the reviewed access matrix.',
  mends:
    'Grant or revoke with the statement that is printed; what is intended is reviewed in scripts/checks/access-matrix.ts.',
  async find({ look }) {
    const found = await look((sql) => accessDifferences(sql))
    return judge(found.map(accessProblem), 'all grants are those of the access matrix')
  },
}

function accessProblem(difference: AccessDifference): Problem {
  const { section, name, reviewed, found } = difference
  if (found === null)
    return { what: `${name} (${section}) is reviewed and not there`, mend: byHand('See what drift says of it.') }
  if (reviewed === null)
    return {
      what: `${name} (${section}) is not in the access matrix: ${found}`,
      mend: byHand('Remove it, or review it and add it to scripts/checks/access-matrix.ts.'),
    }
  const statements = section === 'policies' ? [] : mendOfAccess(section, name, reviewed, found)
  return {
    what: `${name} is "${found}"; reviewed is "${reviewed}"`,
    mend: statements.length > 0 ? bySql(statements.join(' ')) : byHand('See what drift says of it.'),
  }
}

/** The statements that turn one line of the matrix into the other. */
function mendOfAccess(section: AccessDifference['section'], name: string, reviewed: string, found: string): string[] {
  if (section === 'functions') return mendOfFunction(name, reviewed, found)
  const on = `${{ schemas: 'schema ', sequences: 'sequence ', relations: '', functions: '', policies: '' }[section]}${name}`
  const [before, after] = [privilegesIn(reviewed), privilegesIn(found)]
  const mended = [...after]
    .filter((one) => !before.has(one))
    .map((one) => {
      const [role, privilege] = one.split(': ')
      // What came through PUBLIC goes there.
      return `revoke ${privilege} on ${on} from public, ${role};`
    })
  const granted = [...before]
    .filter((one) => !after.has(one))
    .map((one) => {
      const [role, privilege] = one.split(': ')
      return `grant ${privilege} on ${on} to ${role};`
    })
  return [...mendOfRows(name, reviewed, found), ...mended, ...granted]
}

function mendOfRows(name: string, reviewed: string, found: string): string[] {
  const [isForced, wasForced] = [found.includes('rls forced'), reviewed.includes('rls forced')]
  if (wasForced && !isForced)
    return [`alter table ${name} enable row level security;`, `alter table ${name} force row level security;`]
  if (!wasForced && isForced && reviewed.includes('rls off'))
    return [`alter table ${name} no force row level security;`, `alter table ${name} disable row level security;`]
  if (reviewed.includes('invoker') && found.includes('definer'))
    return [`alter view ${name} set (security_invoker = true);`]
  return []
}

/** `anon: select(a, b)` for every privilege of a line. Columns are one privilege each. */
function privilegesIn(line: string): Set<string> {
  const found = new Set<string>()
  for (const part of line.split('; ')) {
    const [, role, list] = /^(anon|authenticated|service_role) (.+)$/.exec(part) ?? []
    if (!role || !list || list === '-') continue
    for (const [, privilege, columns] of list.matchAll(/([a-z]+)(?:\(([^)]*)\))?/g)) {
      if (columns === undefined) found.add(`${role}: ${privilege}`)
      else for (const column of columns.split(', ')) found.add(`${role}: ${privilege} (${column})`)
    }
  }
  return found
}

function mendOfFunction(name: string, reviewed: string, found: string): string[] {
  const read = (line: string) => {
    const [security = '', roles = ''] = line.split('; ')
    return { security, roles: roles === '-' ? [] : roles.split(' ') }
  }
  const [wanted, is] = [read(reviewed), read(found)]
  const extra = is.roles.filter((role) => !wanted.roles.includes(role))
  const missing = wanted.roles.filter((role) => !is.roles.includes(role))
  return [
    ...(wanted.security === is.security ? [] : [`alter function ${name} security ${wanted.security};`]),
    ...(extra.length > 0 ? [`revoke execute on function ${name} from ${extra.join(', ')};`] : []),
    ...(missing.length > 0 ? [`grant execute on function ${name} to ${missing.join(', ')};`] : []),
  ]
}

const isolation: Check = {
  name: 'isolation',
  tells:
    'The roles of the API are bound by row-level security and members of nothing, see no table of Auth and Vault, and no table of files and messages has its row-level security or a trigger switched off.',
  mends:
    'Undo it with the statement that is printed; what belongs to a service is undone as its owner, supabase_admin.',
  async find({ look }) {
    const rows = await look(
      (sql) => sql<{ what: string; mend: string }[]>`
        with api as (select oid, rolname, rolsuper, rolbypassrls, rolcreaterole from pg_roles where rolname in ('anon', 'authenticated'))
        select format('role %I is %s', a.rolname, of.name) as what, format('alter role %I no%s;', a.rolname, of.name) as mend
        from api a cross join lateral (values ('superuser', a.rolsuper), ('bypassrls', a.rolbypassrls), ('createrole', a.rolcreaterole)) of (name, is_so)
        where of.is_so
        union all
        select format('role %I is a member of %I', a.rolname, r.rolname), format('revoke %I from %I;', r.rolname, a.rolname)
        from api a join pg_auth_members m on m.member = a.oid join pg_roles r on r.oid = m.roleid
        union all
        select format('%s has %s on %s', g.who, g.privileges, c.oid::regclass),
          format('revoke all on %s from %s;', c.oid::regclass, g.who)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace cross join lateral (
          select case x.grantee when 0 then 'public' else x.grantee::regrole::text end as who,
            string_agg(lower(x.privilege_type), ', ' order by x.privilege_type) as privileges
          from aclexplode(c.relacl) x where x.grantee = 0 or x.grantee in (select oid from api) group by x.grantee) g
        where n.nspname in ('auth', 'vault')
        union all
        select format('%s has no row-level security', c.oid::regclass), format('alter table %s enable row level security;', c.oid::regclass)
        from pg_class c
        where c.oid in (to_regclass('storage.objects'), to_regclass('storage.buckets'), to_regclass('realtime.messages'), to_regclass('auth.users'))
          and not c.relrowsecurity
        union all
        select format('trigger %I on %s is switched off', t.tgname, c.oid::regclass), format('alter table %s enable trigger %I;', c.oid::regclass, t.tgname)
        from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('auth', 'storage', 'realtime') and t.tgenabled in ('D', 'R') and not t.tgisinternal
          -- Ours are compared with the migrations.
          and (select p.pronamespace from pg_proc p where p.oid = t.tgfoid) <> all (array[to_regnamespace('public'), to_regnamespace('private')]::oid[])
        order by 1`,
    )
    return judge(
      rows.map(({ what, mend }) => ({ what, mend: bySql(mend) })),
      'anon and authenticated see what policies let them',
    )
  },
}

const invalid: Check = {
  name: 'invalid',
  tells: 'No index is invalid and no constraint is unvalidated.',
  mends: 'Build the index anew; validate the constraint, after the rows that break it are right.',
  async find({ look }) {
    const rows = await look(
      (sql) => sql<{ what: string; mend: string }[]>`
        select 'index ' || i.indexrelid::regclass || ' is invalid: no query uses it' as what,
          'reindex index ' || i.indexrelid::regclass || ';' as mend
        from pg_index i join pg_class c on c.oid = i.indrelid
        where not i.indisvalid and c.relnamespace in ('public'::regnamespace, 'private'::regnamespace)
        union all
        select format('constraint %I on %s was never validated', k.conname, k.conrelid::regclass),
          format('alter table %s validate constraint %I;', k.conrelid::regclass, k.conname)
        from pg_constraint k
        where not k.convalidated and k.connamespace in ('public'::regnamespace, 'private'::regnamespace)`,
    )
    return judge(
      rows.map(({ what, mend }) => ({ what, mend: bySql(mend) })),
      'all indexes and constraints are valid',
    )
  },
}

export const ofSchema: Check[] = [migrations, drift, access, isolation, invalid]
