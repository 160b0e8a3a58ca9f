/** What a database has, by name: what pages may speak of. */
import postgres from 'postgres'

export type Catalogue = {
  schemas: Set<string>
  /** Tables and views, as `schema.name`, with their columns. */
  relations: Map<string, Set<string>>
  /** Functions, as `schema.name`, with the names of the arguments of each. */
  functions: Map<string, string[][]>
  settings: Set<string>
}

export async function readCatalogue(url: string): Promise<Catalogue> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const schemas = await sql<{ name: string }[]>`select nspname as name from pg_catalog.pg_namespace`
    const relations = await sql<{ name: string; columns: string[] }[]>`
      select n.nspname || '.' || c.relname as name, array_agg(a.attname::text) as columns
      from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and not a.attisdropped
      where c.relkind in ('r', 'p', 'v', 'm')
      group by 1`
    const functions = await sql<{ name: string; arguments: string[] | null }[]>`
      select n.nspname || '.' || p.proname as name, p.proargnames as arguments
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace`
    const settings = await sql<{ key: string }[]>`select key from private.settings`
    return {
      schemas: new Set(schemas.map(({ name }) => name)),
      relations: new Map(relations.map(({ name, columns }) => [name, new Set(columns)])),
      functions: new Map(
        Object.entries(Object.groupBy(functions, ({ name }) => name)).map(([name, found = []]) => [
          name,
          found.map((one) => one.arguments ?? []),
        ]),
      ),
      settings: new Set(settings.map(({ key }) => key)),
    }
  } finally {
    await sql.end()
  }
}
