/** The difference in policies on Storage's and Realtime's tables: ours, on tables that are not, so pg-delta leaves them out. */
import postgres from 'postgres'

/** The SQL that turns these policies of `from` into those of `to`; empty when they are the same. */
export async function servicePolicyDifference(from: string, to: string): Promise<string> {
  const [before, after] = await Promise.all([readPolicies(from), readPolicies(to)])
  const gone = [...before].filter(([target, body]) => after.get(target) !== body)
  const added = [...after].filter(([target, body]) => before.get(target) !== body)
  return [
    ...gone.map(([target]) => `drop policy ${target};\n`),
    ...added.map(([target, body]) => `create policy ${target} ${body};\n`),
  ].join('\n')
}

/** `"name" on schema.table` and what follows it in CREATE POLICY. */
async function readPolicies(url: string): Promise<Map<string, string>> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const rows = await sql<{ target: string; body: string }[]>`
      select format('%I on %I.%I', policyname, schemaname, tablename) as target,
        format('as %s for %s to %s', lower(permissive), lower(cmd), array_to_string(roles, ', '))
        || coalesce(' using (' || qual || ')', '') || coalesce(' with check (' || with_check || ')', '') as body
      from pg_catalog.pg_policies where schemaname in ('storage', 'realtime') order by 1`
    return new Map(rows.map(({ target, body }) => [target, body]))
  } finally {
    await sql.end()
  }
}
