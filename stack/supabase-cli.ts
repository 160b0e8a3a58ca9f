/** Runs the official CLI of this repository. It never gets a secret as an argument: everybody on the machine can read those. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { root, StackError } from './config.ts'

type Environment = Record<string, string | undefined>
type Run = { code: number; stdout: string; output: string }

/** Where it runs, whose login it takes, and its way out; the rest of our environment is none of its business. */
const passed = /^(?:PATH|HOME|TMPDIR|SUPABASE_|PG|XDG_|SSL_|HTTPS?_|NO_PROXY)/i

/**
 * Without a terminal: it asks nothing, and what needs a yes says so and changes nothing. `env` is added to what it needs of ours, and is
 * where secrets belong. `output` is what it printed to both streams.
 */
export function runCli(args: string[], env: Environment = {}): Promise<Run> {
  const ours = Object.fromEntries(Object.entries(process.env).filter(([name]) => passed.test(name)))
  const child = spawn(join(root, 'node_modules', '.bin', 'supabase'), [...args, '--agent', 'no'], {
    cwd: root,
    env: { ...ours, NO_COLOR: '1', SUPABASE_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const run = { stdout: '', output: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8')
    child[name].on('data', (chunk: string) => {
      if (name === 'stdout') run.stdout += chunk
      run.output += chunk
    })
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code: code ?? 1, ...run }))
  })
}

/** The same to its success, and gives what it printed to stdout. Otherwise an error with `failure` and what the CLI said last. */
export async function demandCli(
  args: string[],
  env: Environment = {},
  failure = `supabase ${args[0]} ${args[1] ?? ''}`.trimEnd(),
): Promise<string> {
  const { code, stdout, output } = await runCli(args, env)
  if (code !== 0) throw new StackError(`${failure}: ${withoutPasswords(lastLines(output))}`)
  return stdout
}

/** A database as the CLI's target: its address as an argument, its password in the environment. */
export function remoteOf(url: string): { flag: string; env: Environment } {
  const address = new URL(url)
  const password = address.searchParams.get('password') ?? decodeURIComponent(address.password)
  address.password = ''
  address.searchParams.delete('password')
  return { flag: `--remote=${address}`, env: password === '' ? {} : { PGPASSWORD: password } }
}

const withoutPasswords = (text: string): string => text.replaceAll(/(postgres(?:ql)?:\/\/[^:]+:)[^@]+@/g, '$1***@')

/** What a person needs of a failure: the end of it. */
const lastLines = (output: string): string =>
  output
    .split('\n')
    .filter((line) => /[^\s│]/.test(line) && !/^(?:Target:|Confirmed by|Try rerunning|▲)/.test(line))
    .slice(-6)
    .join('\n')
