/** npm run chaos: mixes everything that can go wrong around AI calls, and then counts whether anything was lost or taken twice. */
import { parseArgs } from 'node:util'
import { StackError } from '../stack/config.ts'
import { runChaos } from './chaos/run.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run chaos [-- --seconds N] [--seed S] [--callers C] [--crashes K]

Runs eight accounts, each with one limit that it reaches, against two gateway processes, one durable PostgreSQL and a
provider that fails in twenty ways; callers hang up, send the same key twice, processes are killed, the database is
killed, settlements come twice, the sweeper comes too early. Afterwards no limit may be exceeded by one unit, every
balance is the sum of its entries, every hold has ended once, and the provider's count is ours.

--seconds N   how long, 180 by default    --callers C   at the same time, 16 by default
--seed S      repeats a run's calls       --crashes K   of PostgreSQL, 2 by default

Exits 1 and shows what is wrong when anything is.`

await runScript(help, async () => {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string', default: '180' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 1e9)) },
      callers: { type: 'string', default: '16' },
      crashes: { type: 'string', default: '2' },
    },
  })
  const [seconds, seed, callers, crashes] = [values.seconds, values.seed, values.callers, values.crashes].map(Number)
  const isCount = (value: number | undefined, most: number): value is number =>
    Number.isInteger(value) && Number(value) >= 0 && Number(value) <= most
  if (!isCount(seconds, 3_600) || !isCount(seed, 2 ** 31) || !isCount(callers, 256) || !isCount(crashes, 20))
    throw new StackError('--seconds, --seed, --callers and --crashes are whole numbers; see --help.')
  console.log(`seed ${seed}`)
  const report = await runChaos({
    seconds,
    seed,
    callers,
    crashes,
    progress: (line) => console.error(`chaos: ${line}`),
  })
  console.table(report.answers)
  console.table(report.accidents)
  for (const { what, details } of report.findings.slice(0, 50))
    console.log(`WRONG: ${what}: ${JSON.stringify(details)}`)
  console.log(
    report.findings.length === 0
      ? 'Everything adds up.'
      : `${report.findings.length} things do not add up; repeat with --seed ${seed}.`,
  )
  return report.findings.length === 0 ? 0 : 1
})
