/** The difference in rows between two databases that nobody has used yet: settings, plans, limits and what else they start with. */
import postgres from 'postgres'

/** One line for each row that only one of them has; empty when they start with the same. */
export async function rowDifference(migrated: string, sources: string): Promise<string[]> {
  const [before, after] = await Promise.all([readRows(migrated), readRows(sources)])
  return [
    ...before.filter((row) => !after.includes(row)).map((row) => `only in migrations: ${row}`),
    ...after.filter((row) => !before.includes(row)).map((row) => `only in sources: ${row}`),
  ]
}

/** All rows of our tables, and of Storage's buckets, without what the clock or chance has put into them. */
async function readRows(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const tables = await sql<{ name: string; changing: string[] }[]>`
      select format('%I.%I', n.nspname, c.relname) as name, array(
        select a.attname::text from pg_catalog.pg_attribute a
          join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and pg_get_expr(d.adbin, d.adrelid) ~ 'now\\(\\)|uuid') as changing
      from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relispartition
        -- Its rows are the months that the clock has made.
        and c.oid <> 'private.audit_chain_heads'::regclass
        and (n.nspname in ('public', 'private') or c.oid = 'storage.buckets'::regclass)
      order by 1`
    const found: string[] = []
    for (const { name, changing } of tables) {
      const rows = await sql`
        select (to_jsonb(t) - ${changing}::text[])::text as row from ${sql.unsafe(name)} t order by 1`
      found.push(...rows.map(({ row }) => `${name} ${row}`))
    }
    return found
  } finally {
    await sql.end()
  }
}
