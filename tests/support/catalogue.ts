/**
 * A database's catalogue in the shape of platform-catalog.json, and how two of them differ. What the facts leave out is left out
 * here: indexes that are not unique, sequences, bodies, and functions of the schemas `public` and `extensions`.
 */
import type postgres from 'postgres'

type Json = null | string | boolean | Json[] | { [key: string]: Json }
export type Catalogue = { [section: string]: Json }

/** Reads the whole catalogue. With an empty search_path, so that every name of a type or table comes with its schema. */
export async function readCatalogue(sql: postgres.Sql): Promise<Catalogue> {
  return sql.begin(async (tx) => {
    await tx`set local search_path = ''`
    const [row] = await tx.unsafe<{ catalogue: Catalogue }[]>(wholeCatalogue)
    if (!row) throw new Error('The database has no catalogue.')
    return row.catalogue
  })
}

/** What one database has and the other has not, or otherwise: the path in the section, and what is here; null: nothing. */
type Differences = { [path: string]: string | null }

/** How `here` differs from `hosted`, by section: installed extensions, roles, event triggers, and each schema by its name. */
export function compareCatalogues(hosted: Catalogue, here: Catalogue): { [section: string]: Differences } {
  const [left, right] = [sections(hosted), sections(here)]
  const names = [...new Set([...Object.keys(left), ...Object.keys(right)])]
  const found = names.map((name) => [name, Object.fromEntries(compare([], left[name], right[name]))] as const)
  return Object.fromEntries(found.filter(([, differences]) => Object.keys(differences).length > 0))
}

function compare(path: string[], hosted: Named | undefined, here: Named | undefined): [string, string | null][] {
  if (typeof hosted === 'object' && typeof here === 'object') {
    const keys = [...new Set([...Object.keys(hosted), ...Object.keys(here)])]
    return keys.flatMap((key) => compare([...path, key], hosted[key], here[key]))
  }
  if (hosted === here) return []
  return [[path.join(' ') || 'the schema', here === undefined ? null : typeof here === 'object' ? 'there' : here]]
}

/** A catalogue whose lists are objects, too: by grantee, by setting, by creator, or by the item itself. */
type Named = string | { [key: string]: Named }

function sections({ extensions = null, roles = null, event_triggers = null, schemas = null }: Catalogue) {
  const all = nameItems('schemas', schemas)
  if (typeof all !== 'object') throw new Error('This is no catalogue: it has no schemas.')
  return {
    'installed extensions': nameItems('extensions', extensions),
    roles: nameItems('roles', roles),
    'event triggers': nameItems('event_triggers', event_triggers),
    ...all,
  } as { [section: string]: Named }
}

function nameItems(name: string, value: Json): Named {
  if (value === null) return 'default'
  if (Array.isArray(value)) {
    const named: { [key: string]: Named } = {}
    for (const [key, item] of value.map((item) => nameItem(name, item))) {
      // Two who granted something to the same role.
      named[key] = key in named ? `${named[key]}, ${item}` : item
    }
    return named
  }
  if (typeof value !== 'object') return String(value)
  // The labels of an enum have an order.
  const labels = (item: Json) => (name === 'enums' && Array.isArray(item) ? item.join(', ') : undefined)
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, labels(item) ?? nameItems(key, item)]))
}

function nameItem(list: string, item: Json): [string, Named] {
  if (item !== null && typeof item === 'object' && !Array.isArray(item)) {
    return [`${item.creator} ${item.objects}`, nameItems('grants', item.grants ?? null)]
  }
  const text = String(item)
  if (list !== 'grants' && list !== 'settings') return [text, 'there']
  const at = text.indexOf('=')
  return [text.slice(0, at) || 'public', text.slice(at + 1)]
}

const wholeCatalogue = `
  with
  objects (letter, objects) as (values ('r', 'tables'), ('S', 'sequences'), ('f', 'functions'), ('T', 'types'), ('n', 'schemas')),
  kinds (letter, kind) as (
    values ('r', 'table'), ('p', 'partitioned table'), ('v', 'view'), ('m', 'materialized view'), ('f', 'foreign table')),
  volatilities (letter, volatility) as (values ('i', 'immutable'), ('s', 'stable'), ('v', 'volatile')),
  schemas as (
    select n.oid, n.nspname as name, n.nspowner, n.nspacl
    from pg_namespace n
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  ),
  enums as (
    select t.typnamespace as schema, t.typname as name, jsonb_agg(e.enumlabel order by e.enumsortorder) as labels
    from pg_type t join pg_enum e on e.enumtypid = t.oid
    group by t.oid
  ),
  columns as (
    select a.attrelid as table, jsonb_object_agg(a.attname,
      format_type(a.atttypid, a.atttypmod)
        || case when a.attnotnull then ' not null' else '' end
        || case when a.attidentity <> '' then ' identity' else '' end
        || case when a.attgenerated <> '' then ' generated' else '' end
        || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')) as columns
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped
    group by a.attrelid
  ),
  constraints as (
    select c.conrelid as table, jsonb_object_agg(c.conname, pg_get_constraintdef(c.oid)) as constraints
    from pg_constraint c
    where c.conrelid <> 0
    group by c.conrelid
  ),
  unique_indexes as (
    select i.indrelid as table, jsonb_agg(pg_get_indexdef(i.indexrelid)) as indexes
    from pg_index i
    where i.indisunique and not exists (select from pg_constraint c where c.conindid = i.indexrelid and c.contype in ('p', 'u', 'x'))
    group by i.indrelid
  ),
  triggers as (
    select t.tgrelid as table, jsonb_agg(format('%s: %s %s for each %s calls %s', t.tgname,
      case when (t.tgtype & 2) > 0 then 'before' when (t.tgtype & 64) > 0 then 'instead of' else 'after' end,
      concat_ws(' or ',
        case when (t.tgtype & 4) > 0 then 'insert' end,
        case when (t.tgtype & 8) > 0 then 'delete' end,
        case when (t.tgtype & 16) > 0 then 'update' end,
        case when (t.tgtype & 32) > 0 then 'truncate' end),
      case when (t.tgtype & 1) > 0 then 'row' else 'statement' end,
      p.proname)) as triggers
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where not t.tgisinternal
    group by t.tgrelid
  ),
  policies as (
    select p.polrelid as table, jsonb_agg(p.polname) as policies from pg_policy p group by p.polrelid
  ),
  tables as (
    select c.relnamespace as schema, c.relname as name,
      jsonb_build_object(
        'kind', k.kind, 'owner', c.relowner::regrole, 'row_security', c.relrowsecurity, 'grants', c.relacl::text[],
        'columns', coalesce(columns.columns, '{}'))
      || case when k.kind in ('view', 'materialized view') then '{}' else jsonb_build_object(
        'constraints', coalesce(constraints.constraints, '{}'),
        'unique_indexes', coalesce(unique_indexes.indexes, '[]'),
        'triggers', coalesce(triggers.triggers, '[]'),
        'policies', coalesce(policies.policies, '[]'))
      end as facts
    from pg_class c
      join kinds k on k.letter = c.relkind
      left join columns on columns.table = c.oid
      left join constraints on constraints.table = c.oid
      left join unique_indexes on unique_indexes.table = c.oid
      left join triggers on triggers.table = c.oid
      left join policies on policies.table = c.oid
  ),
  functions as (
    select p.pronamespace as schema, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) as name,
      jsonb_build_object(
        'returns', pg_get_function_result(p.oid), 'owner', p.proowner::regrole, 'definer', p.prosecdef,
        'volatility', v.volatility, 'grants', p.proacl::text[]) as facts
    from pg_proc p join volatilities v on v.letter = p.provolatile
  ),
  default_grants as (
    select d.defaclnamespace as schema,
      jsonb_build_object('creator', d.defaclrole::regrole, 'objects', o.objects, 'grants', d.defaclacl::text[]) as facts
    from pg_default_acl d join objects o on o.letter = d.defaclobjtype
  )
  select jsonb_build_object(
    'extensions', (
      select jsonb_object_agg(e.extname, jsonb_build_object(
        'version', e.extversion, 'schema', n.nspname, 'owner', e.extowner::regrole))
      from pg_extension e join pg_namespace n on n.oid = e.extnamespace),
    'roles', (
      select jsonb_object_agg(r.rolname, jsonb_build_object(
        'is', array_remove(array[
          case when r.rolsuper then 'super' end, case when r.rolinherit then 'inherit' end,
          case when r.rolcreaterole then 'createrole' end, case when r.rolcreatedb then 'createdb' end,
          case when r.rolcanlogin then 'canlogin' end, case when r.rolreplication then 'replication' end,
          case when r.rolbypassrls then 'bypassrls' end], null),
        'settings', coalesce(r.rolconfig, '{}'),
        'member_of', array(
          select m.roleid::regrole::text from pg_auth_members m where m.member = r.oid group by m.roleid order by 1)))
      from pg_roles r where r.rolname !~ '^pg_'),
    'schemas', (
      select jsonb_object_agg(s.name, jsonb_build_object(
        'owner', s.nspowner::regrole,
        'grants', s.nspacl::text[],
        'enums', coalesce((select jsonb_object_agg(e.name, e.labels) from enums e where e.schema = s.oid), '{}'),
        'tables', coalesce((select jsonb_object_agg(t.name, t.facts) from tables t where t.schema = s.oid), '{}'),
        'default_grants', coalesce((select jsonb_agg(d.facts) from default_grants d where d.schema = s.oid), '[]'))
      || case when s.name in ('public', 'extensions') then '{}' else jsonb_build_object(
        'functions', coalesce((select jsonb_object_agg(f.name, f.facts) from functions f where f.schema = s.oid), '{}'))
      end)
      from schemas s),
    'event_triggers', (
      select jsonb_agg(format('%s on %s (owner %s)', e.evtname, e.evtevent, e.evtowner::regrole)) from pg_event_trigger e)
  ) as catalogue`
