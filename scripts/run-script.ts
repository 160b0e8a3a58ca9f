/** How every script ends: --help, one clear line for an error a person can act on, an exit code. */
import { StackError } from '../stack/config.ts'

export async function runScript(help: string, main: () => Promise<number>): Promise<void> {
  if (process.argv.includes('--help') || process.argv.includes('-h')) {
    console.log(help)
    return
  }
  try {
    process.exitCode = await main()
  } catch (error) {
    if (error instanceof StackError) console.error(`palisade: ${error.message}`)
    else console.error(error)
    process.exitCode = 1
  }
}
