/** npm run users:import: accounts of another system, with their password hashes, into a Palisade project. */
import { readFileSync, statSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { SingleBar } from 'cli-progress'
import { StackError } from '../stack/config.ts'
import { loadKeys } from '../stack/keys.ts'
import { findStack } from '../stack/state.ts'
import { connect } from './import/directory.ts'
import { importRows, type Result } from './import/import-rows.ts'
import { countNotTaken } from './import/not-taken.ts'
import { readFirebaseParameters } from './import/password-hash.ts'
import { readRows } from './import/read-rows.ts'
import { notTakenSummary, summary, writeReport } from './import/report.ts'
import { retryingFetch } from './import/retrying-fetch.ts'
import { openState } from './import/state.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run users:import FILE -- [options]

Creates an account for every row of FILE, with the password it already has. Run it with --dry-run first.
  --dry-run               check every row and look for existing accounts; write nothing but the report
  --format ndjson|csv     otherwise by the name of FILE (.ndjson, .jsonl, .csv)
  --report PATH           one line per row; CSV when it ends in .csv (default: FILE.report.ndjson)
  --not-taken             each line of the report names what its row has that is not taken; counts are told always
  --concurrency N         accounts under way at a time, 1 to 64 (default 8)
  --firebase-signer-key KEY|@FILE, --firebase-salt-separator TEXT, --firebase-rounds N, --firebase-mem-cost N
                          Firebase's hash parameters, for rows with password_hash and password_salt

Fields: email (needed), password_hash (bcrypt, argon2i/id, $fbscrypt$), password_salt, email_confirmed, id (UUID),
original_id, first_name, last_name, display_name, birth_date, locale, time_zone, created_at, plan. The names of
"firebase auth:export" (localId, passwordHash, salt, ...) are understood, too. Who is disabled, blocked, banned, locked,
not enabled or not active, banned_until later than now, or of such a status, arrives suspended; who is deleted is refused.
Target: SUPABASE_URL and SUPABASE_SECRET_KEY, otherwise the local stack that runs.
An interrupted import goes on where it was when the same command is run again.
Exit code: 0 every row has its account, 1 some rows do not (see the report), 2 it could not start or go on.`

type Options = {
  file: string
  format: 'ndjson' | 'csv'
  report: string
  notTaken: boolean
  dryRun: boolean
  concurrency: number
  firebase: ReturnType<typeof readFirebaseParameters>
}

function readOptions(args: string[]): Options {
  const text = { type: 'string' } as const
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      'dry-run': { type: 'boolean', default: false },
      format: text,
      report: text,
      'not-taken': { type: 'boolean', default: false },
      concurrency: text,
      'firebase-signer-key': text,
      'firebase-salt-separator': text,
      'firebase-rounds': text,
      'firebase-mem-cost': text,
    },
  })
  const [file, ...more] = positionals
  if (file === undefined || more.length > 0) throw new StackError('Name one FILE. See --help.')
  const format =
    values.format ?? (/\.csv$/i.test(file) ? 'csv' : /\.(?:ndjson|jsonl)$/i.test(file) ? 'ndjson' : undefined)
  if (format !== 'csv' && format !== 'ndjson') throw new StackError('Say --format ndjson or --format csv.')
  const concurrency = Number(values.concurrency ?? 8)
  if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > 64)
    throw new StackError('--concurrency is a number from 1 to 64.')
  const key = values['firebase-signer-key']
  const firebase = readFirebaseParameters({
    signerKey: key?.startsWith('@') ? readFileSync(key.slice(1), 'utf8').trim() : key,
    saltSeparator: values['firebase-salt-separator'],
    rounds: values['firebase-rounds'],
    memCost: values['firebase-mem-cost'],
  })
  // "npm run users:import FILE --dry-run" without "--": npm keeps the option, and nobody wants a real run then.
  const dryRun = values['dry-run'] || process.env.npm_config_dry_run === 'true'
  const report = values.report ?? `${file}.report.ndjson`
  return { file, format, report, notTaken: values['not-taken'], dryRun, concurrency, firebase }
}

async function findTarget(env: NodeJS.ProcessEnv): Promise<{ url: string; secretKey: string }> {
  const { SUPABASE_URL: url, SUPABASE_SECRET_KEY: secretKey } = env
  if (url && secretKey) return { url: url.replace(/\/+$/, ''), secretKey }
  if (url || secretKey)
    throw new StackError('Set both SUPABASE_URL and SUPABASE_SECRET_KEY, or neither for the local stack.')
  const { config, state } = findStack()
  if (!state?.ready) throw new StackError('Set SUPABASE_URL and SUPABASE_SECRET_KEY, or start the local stack.')
  return { url: config.urls.api, secretKey: (await loadKeys(config.files.keys)).secretKey }
}

const isFine: ReadonlySet<string> = new Set(['created', 'would_create', 'already_imported'])

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2))
  const size = statSync(options.file, { throwIfNoEntry: false })?.size
  if (size === undefined) throw new StackError(`${options.file} is not there.`)
  const target = await findTarget(process.env)
  const clock = { sleep: (ms: number) => new Promise<void>((wake) => setTimeout(wake, ms)), random: Math.random }
  const directory = connect(target.url, target.secretKey, retryingFetch(fetch, clock))
  const policy = await directory.policy()
  if (policy.phase === 'capped') console.error('launch.phase is "capped": accounts beyond launch.user_cap will fail.')

  const state = options.dryRun ? undefined : openState(`${options.report}.state`, target.url)
  if (state && state.size > 0) console.error(`Going on after an interruption: ${state.size} accounts are done.`)
  const source = readRows(options.file, options.format)
  const progress = showProgress(size, process.stderr.isTTY)
  const results: Result[] = []
  const counts = new Map<string, number>()
  const onResult = ({ notTaken = [], ...result }: Result) => {
    countNotTaken(counts, notTaken)
    results.push(options.notTaken ? { ...result, notTaken } : result)
    if (result.outcome === 'created') state?.done(result)
    progress.update(source.bytesRead(), results.length)
  }
  const isDone = state?.isDone ?? (() => false)
  try {
    await importRows(source.rows, { ...options, directory, policy, isDone, onResult })
  } finally {
    progress.stop()
    writeReport(options.report, results, counts, options.notTaken)
    const sentence = `${options.dryRun ? 'Dry run, nothing was written. ' : ''}${summary(results)}`
    console.log([`${sentence}. Report: ${options.report}`, notTakenSummary(counts)].filter(Boolean).join('\n'))
  }
  state?.drop()
  return results.every(({ outcome }) => isFine.has(outcome)) ? 0 : 1
}

type Progress = { update(bytes: number, rows: number): void; stop(): void }

const linesEvery = 500

/** A bar for people, a line now and then for logs; on stderr. */
function showProgress(totalBytes: number, isTerminal: boolean): Progress {
  if (!isTerminal) {
    return {
      update: (bytes, rows) => {
        if (rows % linesEvery === 0) console.error(`… ${rows} rows, ${percent(bytes, totalBytes)} of the file read`)
      },
      stop: () => {},
    }
  }
  const bar = new SingleBar({
    format: '{bar} {percentage}% | {rows} rows | {duration_formatted}',
    stream: process.stderr,
  })
  bar.start(Math.max(totalBytes, 1), 0, { rows: 0 })
  return { update: (bytes, rows) => bar.update(bytes, { rows }), stop: () => bar.stop() }
}

const percent = (part: number, whole: number) => `${whole === 0 ? 100 : Math.floor((part / whole) * 100)} %`

await runScript(help, main, 2)
