/** Run by Deno in database-tls.test.ts: whether functions there, too, check what they are told to check. */
import process from 'node:process'
import { z } from 'zod'
import { answer, callSql, connectDatabase } from '../../functions/_shared/db.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'

const said: string[] = []
for (const [url, ca] of z
  .array(z.tuple([z.string(), z.string().nullable()]))
  .parse(JSON.parse(process.env.ASK ?? ''))) {
  const sql = connectDatabase(url, { ca: ca ?? undefined })
  const query = sql`select case when ssl then 'with TLS' else 'without' end as answer from pg_stat_ssl where pid = pg_backend_pid()`
  said.push(await callSql(query, answer(z.string())).catch(describeFailure))
  await sql.end({ timeout: 1 })
}
console.log(JSON.stringify(said))
process.exit()
