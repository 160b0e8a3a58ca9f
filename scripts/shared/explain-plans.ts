/** The plans of everything that a statement runs, also inside its functions, as auto_explain tells them to a superuser. */
import postgres from 'postgres'
import { z } from 'zod'

/** `blocks`: pages of tables and indexes that were looked at, whether they were in memory or not. */
export type Explained = { text: string; blocks: number; scans: { relation: string; node: string }[] }

type Node = z.infer<typeof node>
const node = z.looseObject({
  'Node Type': z.string(),
  'Relation Name': z.string().optional(),
  'Shared Hit Blocks': z.number(),
  'Shared Read Blocks': z.number(),
  get Plans() {
    return z.array(node).optional()
  },
})
const explained = z.object({ 'Query Text': z.string(), Plan: node })

const nodesOf = (top: Node): Node[] => [top, ...(top.Plans ?? []).flatMap(nodesOf)]

/** Runs `act` on a connection of its own and answers the plans since the last `clear`, innermost first. */
export async function explaining<T>(
  superuserUrl: string,
  act: (sql: postgres.Sql, take: () => Explained[]) => Promise<T>,
): Promise<T> {
  let plans: Explained[] = []
  const onnotice = ({ message }: postgres.Notice) => {
    const json = /^duration: .* plan:\n(\{.*\})$/s.exec(message ?? '')?.[1]
    if (!json) return
    const { 'Query Text': text, Plan } = explained.parse(JSON.parse(json))
    const blocks = Plan['Shared Hit Blocks'] + Plan['Shared Read Blocks']
    const scans = nodesOf(Plan).flatMap((one) => {
      const relation = one['Relation Name']
      return relation && one['Node Type'] !== 'ModifyTable' ? [{ relation, node: one['Node Type'] }] : []
    })
    plans.push({ text, blocks, scans })
  }
  const sql = postgres(superuserUrl, { max: 1, onnotice })
  try {
    await sql.unsafe(`
      load 'auto_explain';
      set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;
      set auto_explain.log_buffers = on; set auto_explain.log_timing = off; set auto_explain.log_format = json;
      set auto_explain.log_level = log; set client_min_messages = log`)
    return await act(sql, () => {
      const taken = plans
      plans = []
      return taken
    })
  } finally {
    await sql.end()
  }
}
