/** npm run test:on -- DATE: the tests with the machine's clock moved to another day, as docs/on-another-day.md says. */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { StackError } from '../stack/config.ts'
import { runScript } from './shared/run-script.ts'
import { runVitest } from './shared/run-vitest.ts'

const help = `Usage: npm run test:on -- DATE [what vitest takes]

Runs the tests as if the machine's clock stood at DATE when they begin, and went on from there: in Node, Deno and
PostgreSQL. DATE is 2027-02-28, 2027-02-28T12:00 (UTC) or 2027-02-28T12:00+02:00. What follows goes to vitest:

  npm run test:on -- 2028-02-29 tests/sql

Needs libfaketime: apt-get install faketime. Tests of what it breaks are left out by their names, so -t cannot be given.`

/**
 * Under libfaketime a server that waits for a lock, a client or pg_sleep sees the real time when its alarm rings, which is
 * not yet the time it set it for: lock_timeout, statement_timeout and the search for deadlocks never come.
 */
const leftOut = [
  // tests/platform/auth-sessions.test.ts: lock_timeout
  'that waits for five seconds behind another one is a conflict',
  // tests/platform/auth-hooks.test.ts: statement_timeout of a hook that sleeps
  'that works for longer than two seconds is stopped',
  'that fails (perform pg_sleep(60)',
  // tests/functions/pooler.test.ts, tests/scripts/doctor.test.ts: statement_timeout
  'statements end in time: by their own transaction, or by the setting of their role',
  'statements of the gateway end in time, by AI_DB_URL',
]
/** Caddy is written in Go and asks the kernel what time it is: its certificates are of the real day. */
const leftOutFiles = ['tests/stack/proxy.test.ts', 'tests/stories/behind-proxy.test.ts']

/** Epoch milliseconds; without a zone UTC is meant, and without a time the day's begin. */
function readDate(text = ''): number {
  const isShort = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$/.test(text)
  const at = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(isShort ? `${text}Z` : text) : Number.NaN
  if (Number.isNaN(at)) throw new StackError(`DATE is missing, or not a date: "${text}".\n\n${help}`)
  return at
}

/** Its own command knows where the library lies. */
function libfaketime(): string {
  try {
    return execFileSync('faketime', ['-f', '+0', 'printenv', 'LD_PRELOAD'], { encoding: 'utf8' }).trim()
  } catch {
    throw new StackError('libfaketime is not installed, or does not work here: apt-get install faketime.')
  }
}

/** A process that was killed leaves the memory that it shared with its children; a later one of its number stumbles over it. */
function tidySharedMemory(folder = '/dev/shm'): void {
  if (!existsSync(folder)) return
  for (const name of readdirSync(folder)) {
    const pid = /^(?:faketime_shm_|sem\.faketime_sem_)(\d+)$/.exec(name)?.[1]
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(folder, name), { force: true })
  }
}

const escaped = (text: string) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')

await runScript(help, async () => {
  const [date, ...rest] = process.argv.slice(2)
  const seconds = Math.round((readDate(date) - Date.now()) / 1000)
  const clock = { LD_PRELOAD: libfaketime(), FAKETIME: `${seconds < 0 ? '' : '+'}${seconds}` }
  if (rest.some((word) => /^(-t|--testNamePattern)(=|$)/.test(word)))
    throw new StackError('Tests are left out by their names here, so vitest cannot be given -t: name a file.')
  const names = leftOut.length > 0 ? ['--testNamePattern', `^(?!.*(?:${leftOut.map(escaped).join('|')}))`] : []
  const files = leftOutFiles.flatMap((file) => ['--exclude', file])
  tidySharedMemory()
  const code = await runVitest([...names, ...files, ...rest], clock)
  tidySharedMemory()
  return code
})
