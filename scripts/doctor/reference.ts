/**
 * What a database of this version looks like: read from one that has just been made from supabase/migrations on a server of our own,
 * with the same query as the database in question. No tool gets that one's address, so nobody sees its password in a list of processes.
 */
import postgres from 'postgres'
import { applyMigrations, migrationVersions } from '../../stack/migrations.ts'
import { startScratch } from '../../stack/platform/scratch.ts'

export type Reference = { versions: string[]; things: Map<string, Thing>; jobs: Job[] }
/** `create` and `remove` are statements; `looks` is what is compared. */
export type Thing = { kind: string; name: string; looks: string; create: string; remove: string }
export type Job = { name: string; schedule: string; command: string }

const read: { reference?: Promise<Reference> } = {}

/** Made once in a process: a server starts for it. */
export const readReference = (): Promise<Reference> => {
  read.reference ??= makeReference()
  return read.reference
}

async function makeReference(): Promise<Reference> {
  const scratch = await startScratch()
  try {
    const url = await scratch.createDatabase('reference')
    const versions = await migrationVersions()
    await applyMigrations(url, versions)
    const sql = postgres(url, { max: 1, onnotice: () => {} })
    try {
      const jobs = await sql<Job[]>`select jobname as name, schedule, command from cron.job order by jobid`
      const things = await sql.begin(async (tx) => {
        await tx`set local search_path = ''`
        return readThings(tx)
      })
      return { versions, things, jobs: [...jobs] }
    } finally {
      await sql.end()
    }
  } finally {
    await scratch.stop()
  }
}

type Queries = postgres.Sql | postgres.TransactionSql

/**
 * Everything of ours in the catalogue but grants, which the access matrix has, and the partitions that the clock makes. With an empty
 * search_path, so that every name is whole. PostgreSQL 15 and 17 word what we have alike.
 */
export async function readThings(sql: Queries): Promise<Map<string, Thing>> {
  const rows = await sql<Thing[]>`
    with ours as (
      select c.oid, c.relname, c.relkind, c.reloptions, c.relrowsecurity, c.relforcerowsecurity,
        format('%I.%I', n.nspname, c.relname) as name,
        case c.relkind when 'v' then 'view' when 'S' then 'sequence' when 'c' then 'type' else 'table' end as kind
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ('public', 'private') and c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
        and not (c.relispartition and c.relname ~ '_[0-9]{6}$')
    )
    select kind, name, coalesce(reloptions::text, '') || case when kind = 'view' then pg_get_viewdef(oid) else '' end as looks,
      case when kind = 'view' then format(e'create or replace view %s%s as\n%s', name,
        case when reloptions is null then '' else ' with (' || array_to_string(reloptions, ', ') || ')' end, pg_get_viewdef(oid))
        else '' end as create,
      format('drop %s %s;', kind, name) as remove
    from ours
    union all
    select 'column', o.name || '.' || quote_ident(a.attname),
      format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end
        || case when a.attgenerated <> '' then ' generated always as (' || pg_get_expr(d.adbin, d.adrelid) || ') stored'
          when a.attidentity <> '' then ' generated ' || case a.attidentity when 'a' then 'always' else 'by default' end || ' as identity'
          else coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') end,
      format('alter table %s add column %I ', o.name, a.attname), format('alter table %s drop column %I;', o.name, a.attname)
    from ours o join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where o.relkind in ('r', 'p', 'c')
    union all
    select 'constraint', format('%I on %s', k.conname, o.name), pg_get_constraintdef(k.oid),
      format('alter table %s add constraint %I %s;', o.name, k.conname, pg_get_constraintdef(k.oid)),
      format('alter table %s drop constraint %I;', o.name, k.conname)
    from ours o join pg_constraint k on k.conrelid = o.oid where k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), pg_get_indexdef(i.indexrelid) || ';',
      format('drop index %s;', i.indexrelid::regclass)
    from ours o join pg_index i on i.indrelid = o.oid
    where not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
    union all
    select 'trigger', format('%I on %s', t.tgname, t.tgrelid::regclass),
      pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text, pg_get_triggerdef(t.oid) || ';'
        || case when t.tgenabled = 'A' then format(' alter table %s enable always trigger %I;', t.tgrelid::regclass, t.tgname) else '' end,
      format('drop trigger %I on %s;', t.tgname, t.tgrelid::regclass)
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_class c on c.oid = t.tgrelid
    where not t.tgisinternal and p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
      and not (c.relispartition and c.relname ~ '_[0-9]{6}$')
    union all
    select 'function', p.oid::regprocedure::text, p.prosrc || coalesce(pg_get_function_sqlbody(p.oid), '') || pg_get_function_result(p.oid)
        || pg_get_function_arguments(p.oid) || p.provolatile::text || p.prosecdef::text || coalesce(p.proconfig::text, ''),
      case when p.prokind in ('f', 'p') then pg_get_functiondef(p.oid) || ';' else '' end, format('drop function %s;', p.oid::regprocedure)
    from pg_proc p where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    union all
    select 'policy', format('%I on %I.%I', policyname, schemaname, tablename), rule, format('create policy %I on %I.%I %s;', policyname, schemaname, tablename, rule),
      format('drop policy %I on %I.%I;', policyname, schemaname, tablename)
    from pg_policies cross join lateral (
      select format('as %s for %s to %s', lower(permissive), lower(cmd), array_to_string(roles, ', '))
        || coalesce(' using (' || qual || ')', '') || coalesce(' with check (' || with_check || ')', '') as rule) r
    where schemaname in ('public', 'private', 'storage', 'realtime')
    union all
    -- Its owner may do everything with an object, and grant it to others.
    select 'owner', 'of ' || kind || ' ' || name, owner::text, format('alter %s %s owner to %s;', kind, name, owner), ''
    from (
      select o.kind, o.name, c.relowner::regrole as owner from ours o join pg_class c on c.oid = o.oid
      union all
      select 'function', p.oid::regprocedure::text, p.proowner::regrole from pg_proc p
      where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace)
    ) owned
    union all
    select 'bucket', id, concat_ws(' ', public, file_size_limit, allowed_mime_types), '', '' from storage.buckets`
  return new Map(rows.map((row) => [`${row.kind} ${row.name}`, { ...row }]))
}
