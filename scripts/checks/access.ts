/** Who may do what in a database, read from its catalogue and compared with the reviewed lines of access-matrix.ts. */
import type postgres from 'postgres'
import { functions, policies, relations, schemas, sequences } from './access-matrix.ts'

const reviewed = { schemas, relations, functions, sequences, policies }
type Section = keyof typeof reviewed
type Line = { name: string; access: string }

const ours = ['public', 'private', 'graphql_public']
const roles = ['anon', 'authenticated', 'service_role']
/**
 * Jobs make one a month; they are checked, but cannot be listed by name.
 * @internal For tests, which word it otherwise.
 */
export const isPartitionByTheClock = (name: string) =>
  /^private\.(?:ai_calls|audit_log|portfolio_snapshots)_\d{6}$/.test(name)
const partitionLine = 'table, rls off; anon -; authenticated -; service_role -'

const readers: Record<Section, (sql: postgres.Sql | postgres.TransactionSql) => PromiseLike<Line[]>> = {
  schemas: (sql) => sql`
    select s.name, string_agg(role || ' ' || coalesce(granted, '-'), '; ' order by role) as access
    from unnest(${ours}::text[]) s (name)
      cross join unnest(${roles}::text[]) role
      cross join lateral (
        select string_agg(p, ' ' order by i) as granted
        from unnest(array['usage', 'create']) with ordinality p (p, i) where has_schema_privilege(role, s.name, p)) g
    group by s.name`,

  // What a role can do in the end, also through PUBLIC. Columns are listed where the whole table is not granted.
  relations: (sql) => sql`
    select format('%I.%I', n.nspname, c.relname) as name,
      case c.relkind when 'r' then 'table' when 'p' then 'table' when 'v' then 'view' when 'm' then 'materialized view' else 'foreign table' end
      || case
        when c.relkind = 'v' then case when c.reloptions::text ~* 'security_invoker=(true|on|1)' then ', invoker' else ', definer' end
        when c.relrowsecurity then case when c.relforcerowsecurity then ', rls forced' else ', rls not forced' end
        else ', rls off' end
      || '; ' || string_agg(role || ' ' || coalesce(granted, '-'), '; ' order by role) as access
    from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      cross join unnest(${roles}::text[]) role
      cross join lateral (
        select string_agg(p || case when whole then '' else '(' || columns || ')' end, ' ' order by i) as granted
        from unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger', 'maintain'])
            with ordinality p (p, i)
          -- PostgreSQL 15 knows no maintain.
          cross join lateral (
            select case when p <> 'maintain' or current_setting('server_version_num')::integer >= 170000
              then has_table_privilege(role, c.oid, p) else false end as whole) of_table
          cross join lateral (
            select string_agg(a.attname, ', ' order by a.attname) as columns from pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
              and case when p in ('select', 'insert', 'update', 'references')
                then has_column_privilege(role, c.oid, a.attnum, p) end) of_columns
        where whole or columns is not null) g
    where n.nspname = any (${ours}) and c.relkind in ('r', 'p', 'v', 'm', 'f')
    group by n.nspname, c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text`,

  functions: (sql) => sql`
    select format('%I.%I(%s)', n.nspname, p.proname, arguments.types) as name,
      case when p.prosecdef then 'definer' else 'invoker' end || '; ' || coalesce(granted.roles, '-') as access
    from pg_proc p
      join pg_namespace n on n.oid = p.pronamespace
      cross join lateral (
        select coalesce(string_agg(
          case when t.typnamespace = 'pg_catalog'::regnamespace then format_type(t.oid, null)
            else format('%I.%I%s', t.typnamespace::regnamespace, coalesce(e.typname, t.typname), case when e.oid is not null then '[]' end) end, ', ' order by a.i), '') as types
        from unnest(p.proargtypes::oid[]) with ordinality a (type, i) join pg_type t on t.oid = a.type
          left join pg_type e on e.typarray = t.oid) arguments
      cross join lateral (
        select string_agg(role, ' ' order by i) as roles
        from unnest(array['PUBLIC'] || ${roles}::text[] || array['palisade_gateway']) with ordinality r (role, i)
        where has_function_privilege(lower(role), p.oid, 'execute')) granted
    where n.nspname = any (${ours})`,

  sequences: (sql) => sql`
    select format('%I.%I', n.nspname, c.relname) as name,
      string_agg(role || ' ' || coalesce(granted, '-'), '; ' order by role) as access
    from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      cross join unnest(${roles}::text[]) role
      cross join lateral (
        select string_agg(p, ' ' order by i) as granted
        from unnest(array['usage', 'select', 'update']) with ordinality p (p, i) where has_sequence_privilege(role, c.oid, p)) g
    where n.nspname = any (${ours}) and c.relkind = 'S'
    group by n.nspname, c.relname`,

  policies: (sql) => sql`
    select format('%I.%I: %s', schemaname, tablename, policyname) as name,
      case permissive when 'PERMISSIVE' then '' else 'restrictive ' end || lower(cmd) || ' to ' || array_to_string(roles, ' ')
      -- Every expression it has, so that an update may not be let in by one of its two.
      || case when coalesce(qual, 'my_user_id(') ~ 'my_user_id\\(' and coalesce(with_check, 'my_user_id(') ~ 'my_user_id\\('
        then ', live' else '' end as access
    from pg_policies where schemaname = any (${ours}) or schemaname in ('storage', 'realtime')`,
}

/** One line that is not as reviewed. `reviewed` is null for what nobody reviewed, `found` for what is gone. */
export type AccessDifference = { section: Section; name: string; reviewed: string | null; found: string | null }

/** Everything that is not as access-matrix.ts says; empty when all is reviewed. */
export async function accessDifferences(sql: postgres.Sql | postgres.TransactionSql): Promise<AccessDifference[]> {
  const sections: Section[] = ['schemas', 'relations', 'functions', 'sequences', 'policies']
  const differences: AccessDifference[] = []
  for (const section of sections) differences.push(...compare(section, await readers[section](sql)))
  return differences
}

function compare(section: Section, found: Line[]): AccessDifference[] {
  const lines = new Map(Object.entries<string>(reviewed[section]))
  const sorted = found.toSorted((a, b) => (a.name < b.name ? -1 : 1))
  const names = new Set(found.map(({ name }) => name))
  return [
    ...sorted.flatMap(({ name, access }) => {
      const line = isPartitionByTheClock(name) ? partitionLine : lines.get(name)
      return line === access ? [] : [{ section, name, reviewed: line ?? null, found: access }]
    }),
    ...[...lines]
      .filter(([name]) => !names.has(name))
      .map(([name, line]) => ({ section, name, reviewed: line, found: null })),
  ]
}
