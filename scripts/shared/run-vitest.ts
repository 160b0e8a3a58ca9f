const unused = 'http://127.0.0.1:9'

/** The environment of tests that have a database and nothing else. */
export const onDatabase = (url: string): Record<string, string> => ({
  API_URL: unused,
  REST_URL: unused,
  FUNCTIONS_URL: unused,
  MAILPIT_URL: unused,
  PUBLISHABLE_KEY: '-',
  SECRET_KEY: '-',
  DB_URL: url,
})

/** Runs the tests for a command of ours, with what a person has handed on to vitest; answers vitest's exit code. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createCLI } from 'vitest/node'
import { root, StackError } from '../../stack/config.ts'

/** Throws for a flag that vitest does not know, about which it would print a trace. */
export async function runVitest(args: string[], env: NodeJS.ProcessEnv): Promise<number> {
  try {
    const cli = createCLI()
    cli.parse(['node', 'vitest', 'run', ...args], { run: false })
    cli.matchedCommand?.checkUnknownOptions()
  } catch (error) {
    throw new StackError(`vitest does not take this: ${error instanceof Error ? error.message : error}. See --help.`)
  }
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
  const child = spawn(process.execPath, [vitest, 'run', ...args], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: 'inherit',
  })
  return new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
}
