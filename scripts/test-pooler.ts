/** npm run test:pooler: what functions do, by way of PgBouncer and with two processes of them. */
import { runScript } from './shared/run-script.ts'
import { runVitest } from './shared/run-vitest.ts'

const help = `Usage: npm run test:pooler [-- what vitest takes]

Runs the stories of AI calls, billing and credentials on a stack whose functions are two processes that reach the database
through PgBouncer in transaction mode, and chaos with the same in between. Needs Debian's package pgbouncer.`

await runScript(help, () =>
  runVitest(process.argv.slice(2), { PALISADE_TEST_POOLER: 'on', PALISADE_FUNCTIONS_PROCESSES: '2' }),
)
