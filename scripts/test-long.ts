/** npm run test:long: the tests that need minutes, and when they last passed here. */
import { execFileSync } from 'node:child_process'
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../stack/config.ts'
import { runScript } from './shared/run-script.ts'
import { runVitest } from './shared/run-vitest.ts'

const help = `Usage: npm run test:long [-- --last | what vitest takes]

Runs what is too long for npm test: three minutes of chaos, and every property of the database five times as often.
Each run of all of it that passes is a line in test-long.log, which git ignores.
--last   only say when that was on this machine, and at which commit; exits 1 when it never was`

const log = join(root, 'test-long.log')
const lastLine = () => (existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n').at(-1) : undefined)
const git = (...args: string[]) => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim()

await runScript(help, async () => {
  const args = process.argv.slice(2)
  const last = lastLine()
  console.log(last ? `Last passed: ${last}` : 'It never passed here.')
  if (args.includes('--last')) return last ? 0 : 1

  const code = await runVitest(args, { PALISADE_LONG: 'on' })
  // A part is not the whole.
  if (code === 0 && args.length === 0) {
    const isChanged = git('status', '--porcelain') !== ''
    const at = `${git('rev-parse', '--short', 'HEAD')}${isChanged ? ', with changes that are not committed' : ''}`
    appendFileSync(log, `${new Date().toISOString()} at ${at}\n`)
  }
  return code
})
