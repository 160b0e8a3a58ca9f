/** npm run bench: measures what the targets of docs and requirements speak of, on a scratch cluster of its own. */
import { type ExecFileSyncOptions, execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root, StackError } from '../../stack/config.ts'
import { pushMigrations } from '../../stack/migrations.ts'
import { type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { pgBouncerProgram, startPgBouncer } from '../shared/pgbouncer.ts'
import { runScript } from '../shared/run-script.ts'
import { jsonOf, tablesOf } from './results.ts'
import type { BenchResult, BenchWorld } from './types.ts'

const folder = join(root, 'scripts', 'bench')
const modules = readdirSync(join(folder, 'benchmarks'))
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.replace(/\.ts$/, ''))
  .sort()

const help = `Usage: npm run bench [-- NAME ...] [--scale S] [--rounds N] [--json FILE]

Measures with real data and prints tables: the figures that scripts/bench/figures.ts defines, each with what it must reach
at least and what it aims at, and then everything else. What is missed is shown, and no error. Names, all without one:
${modules.join(', ')}.

--scale S    the share of the full amount of data and time, at most 10; smaller is faster and says less. Without it 1,
             but for bloat, whose full hour is --scale 1: there 1/12
--rounds N   how often everything is measured, where there are rounds
--json FILE  writes every figure with its definition and all results there as well

Exit codes: 0 everything was measured; 1 something could not be; 130 or 143 interrupted. What was
measured before is shown.`

/** Packages that only benchmarks need, so that everybody else's `npm ci` stays small. */
function installPackages(progress: (text: string) => void): void {
  const { dependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  if (Object.keys(dependencies).every((name) => existsSync(join(folder, 'node_modules', name)))) return
  progress('installing the packages of scripts/bench')
  const options = { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] } satisfies ExecFileSyncOptions
  execFileSync('npm', ['ci', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund'], options)
}

function readOptions() {
  const text = { type: 'string' } as const
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { scale: text, rounds: text, json: text },
  })
  const unknown = positionals.filter((name) => !modules.includes(name))
  if (unknown.length > 0)
    throw new StackError(`There is no benchmark ${unknown.join(', ')}; there are ${modules.join(', ')}.`)
  const scale = values.scale === undefined ? undefined : Number(values.scale)
  if (scale !== undefined && !(scale > 0 && scale <= 10))
    throw new StackError('--scale is a number above 0, at most 10.')
  const rounds = values.rounds === undefined ? undefined : Number(values.rounds)
  if (rounds !== undefined && !(Number.isInteger(rounds) && rounds > 0 && rounds <= 1000))
    throw new StackError('--rounds is a whole number, 1 to 1000.')
  const names = modules.filter((name) => positionals.length === 0 || positionals.includes(name))
  return { names, scale, rounds, json: values.json }
}

function worldOn(scratch: Scratch, rest: Pick<BenchWorld, 'progress' | 'rounds'>): (scale: number) => BenchWorld {
  return (scale) => ({
    ...rest,
    scale,
    async createDatabase(name) {
      const url = await scratch.createDatabase(name)
      await pushMigrations(url, { seed: false })
      return url
    },
    superuserUrl: scratch.superuserUrl,
    async startPooler() {
      const { port, keys } = scratch
      if (existsSync(pgBouncerProgram))
        return startPgBouncer({ port, superuserPassword: keys.passwords.supabase_admin })
      rest.progress('without PgBouncer: apt-get install pgbouncer')
      return undefined
    },
  })
}

/** What figures belong to: a machine and a commit. */
function describeRun(options: ReturnType<typeof readOptions>) {
  const git = (...args: string[]) => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()
  return {
    measured_at: new Date().toISOString(),
    commit: existsSync(join(root, '.git')) ? git('rev-parse', 'HEAD') : null,
    machine: { cpus: cpus().length, model: cpus()[0]?.model, memory_gb: Math.round(totalmem() / 1e9) },
    node: process.version,
    ...{ names: options.names, scale: options.scale ?? null, rounds: options.rounds ?? null },
  }
}

await runScript(help, async () => {
  const options = readOptions()
  const progress = (text: string) => console.error(`bench: ${text}`)
  installPackages(progress)
  const run = describeRun(options)
  progress('starting a cluster')
  const scratch = await startScratch({ durable: true })
  const worldOf = worldOn(scratch, { progress, rounds: options.rounds })
  const results: BenchResult[] = []
  let isTold = false
  const tell = () => {
    // An interruption may let what runs fail, too.
    if (isTold) return
    isTold = true
    if (results.length > 0) console.log(tablesOf(results))
    if (options.json !== undefined) writeFileSync(options.json, jsonOf(results, run))
  }
  // The cluster outlives this process unless it is stopped.
  const end = () => {
    tell()
    void scratch.stop().then(() => process.exit(130))
  }
  process.once('SIGINT', end).once('SIGTERM', end)
  try {
    for (const [at, name] of options.names.entries()) {
      progress(`${name}, ${at + 1} of ${options.names.length}`)
      const { bench, defaultScale = 1 } = await import(`./benchmarks/${name}.ts`)
      results.push(...(await bench(worldOf(options.scale ?? defaultScale))))
    }
    return 0
  } finally {
    tell()
    await scratch.stop()
  }
})
