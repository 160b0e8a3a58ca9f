/** How every script ends: --help, one clear line for an error a person can act on, an exit code. */
import { explainError } from './explain-error.ts'

/** `failed` is the exit code of a script that could not start or go on. */
export async function runScript(help: string, main: () => Promise<number>, failed = 1): Promise<void> {
  if (process.argv.includes('--help') || process.argv.includes('-h')) {
    console.log(help)
    return
  }
  try {
    process.exitCode = await main()
  } catch (error) {
    console.error(`palisade: ${explainError(error)}`)
    process.exitCode = failed
  }
}
