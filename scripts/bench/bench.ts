/** npm run bench: measures what the targets of docs and requirements speak of, on a scratch cluster of its own. */
import { type ExecFileSyncOptions, execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root, StackError } from '../../stack/config.ts'
import { pushMigrations } from '../../stack/migrations.ts'
import { startScratch } from '../../stack/platform/scratch.ts'
import { tableOf } from '../shared/print-table.ts'
import { runScript } from '../shared/run-script.ts'
import type { BenchResult, BenchWorld } from './types.ts'

const folder = join(root, 'scripts', 'bench')
const modules = readdirSync(join(folder, 'benchmarks'))
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replace(/\.ts$/, ''))
  .sort()

const help = `Usage: npm run bench [-- NAME ...] [--scale S]

Measures with real data and prints a table; a target that is missed is shown, not an error. Names: ${modules.join(', ')}.
--scale S is the share of the full amount of data, 1 by default; smaller is faster and says less.`

const isHigherBetter = ({ unit, better }: BenchResult) =>
  (better ?? (unit === 'ratio' ? 'higher' : 'lower')) === 'higher'

function isMet(result: BenchResult): string {
  const { value, target } = result
  if (target === undefined) return ''
  return (isHigherBetter(result) ? value >= target : value <= target) ? 'met' : 'MISSED'
}

/** Packages that only benchmarks need, so that everybody else's `npm ci` stays small. */
function installPackages(progress: (text: string) => void): void {
  if (existsSync(join(folder, 'node_modules'))) return
  progress('installing the packages of scripts/bench')
  const options = { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] } satisfies ExecFileSyncOptions
  execFileSync('npm', ['ci', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund'], options)
}

function printTable(results: BenchResult[]): void {
  const rows = results.map((result) => [
    result.name,
    `${result.value.toFixed(result.unit === 'ratio' ? 3 : result.unit === 'ms' ? 2 : 1)} ${result.unit}`,
    result.target === undefined ? '' : `${isHigherBetter(result) ? '>=' : '<='} ${result.target}`,
    isMet(result),
    result.note ?? '',
  ])
  console.log(tableOf([['what', 'measured', 'target', '', ''], ...rows]))
}

await runScript(help, async () => {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { scale: { type: 'string', default: '1' } },
  })
  const unknown = positionals.filter((name) => !modules.includes(name))
  const scale = Number(values.scale)
  if (unknown.length > 0)
    throw new StackError(`There is no benchmark ${unknown.join(', ')}; there are ${modules.join(', ')}.`)
  if (!(scale > 0 && scale <= 10)) throw new StackError('--scale is a number above 0, at most 10.')
  const progress = (text: string) => console.error(`bench: ${text}`)
  installPackages(progress)
  progress('starting a cluster')
  const scratch = await startScratch({ durable: true })
  const world: BenchWorld = {
    async createDatabase(name) {
      const url = await scratch.createDatabase(name)
      await pushMigrations(url, { seed: false })
      return url
    },
    superuserUrl: scratch.superuserUrl,
    progress,
    scale,
  }
  // The cluster outlives this process unless it is stopped.
  const end = () => void scratch.stop().then(() => process.exit(130))
  process.once('SIGINT', end).once('SIGTERM', end)
  try {
    const results: BenchResult[] = []
    for (const name of modules.filter((name) => positionals.length === 0 || positionals.includes(name))) {
      const { bench } = await import(`./benchmarks/${name}.ts`)
      results.push(...(await bench(world)))
    }
    printTable(results)
    return 0
  } finally {
    await scratch.stop()
  }
})
