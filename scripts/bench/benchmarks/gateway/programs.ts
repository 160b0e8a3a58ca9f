/** Starts and ends the helper programs of a benchmark. Each is tied to this process by its stdin: see end-with-parent.ts. */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { functionFiles, root, StackError } from '../../../../stack/config.ts'
import { denoBinary, denoOffline } from '../../../../stack/platform/functions.ts'
import { endProcess } from '../../../../stack/platform/postgres.ts'
import type { Answer, Command, Load, Measured } from './load-contract.ts'

const folder = join(root, 'scripts', 'bench', 'benchmarks', 'gateway')
const readyMs = 30_000

export type Program = { pid: number | undefined; stop(): Promise<void> }

/** A program in Deno, with the packages of the functions. */
export function startDeno(file: URL, args: string[]): Program {
  const flags = [...denoOffline, '--no-check', '--allow-all']
  const config = ['--config', join(root, 'functions', 'deno.json')]
  return start(denoBinary(), ['run', '--unstable-no-legacy-abort', ...flags, ...config, fileURLToPath(file), ...args], {
    DENO_DIR: functionFiles.cache,
    DENO_NO_UPDATE_CHECK: '1',
  })
}

/** Portkey's gateway as its package starts it. It trusts 127.0.0.1 as a custom host by default. */
export function startPortkey(port: number): Program {
  const require = createRequire(join(root, 'scripts', 'bench', 'package.json'))
  const entry = require.resolve('@portkey-ai/gateway/build/start-server.js')
  const leash = new URL('./end-with-parent.ts', import.meta.url)
  const args = ['--import', leash.href, entry, '--headless', `--port=${port}`]
  return start(process.execPath, args, { NODE_ENV: 'production', TRUSTED_CUSTOM_HOSTS: '127.0.0.1' })
}

/** Another gateway in Node. */
export function startLlms(port: number, providerUrl: string): Program {
  const file = fileURLToPath(new URL('./llms.ts', import.meta.url))
  return start(process.execPath, [file, String(port), providerUrl], { NODE_ENV: 'production' })
}

function start(program: string, args: string[], env: Record<string, string>): Program {
  const child = spawn(program, args, {
    cwd: folder,
    stdio: ['pipe', 'ignore', 'inherit'],
    env: { PATH: process.env.PATH, NO_COLOR: '1', ...env },
  })
  child.stdin?.on('error', () => {})
  return { pid: child.pid, stop: () => endProcess(child) }
}

/** Resolves when something answers at the address, whatever it says. */
export async function untilAnswered(name: string, url: string): Promise<void> {
  for (const until = Date.now() + readyMs; Date.now() < until; await sleep(50)) {
    const answered = await fetch(url, { signal: AbortSignal.timeout(1_000) }).then(
      async (response) => response.arrayBuffer(),
      () => undefined,
    )
    if (answered) return
  }
  throw new StackError(`The benchmark's ${name} does not start.`)
}

/** The process that makes the load: one measurement at a time. */
export async function startLoad(tokens: string[], superuserUrl: string) {
  const child = fork(new URL('./load.ts', import.meta.url), { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  await ask(child, { kind: 'setup', tokens, superuserUrl })
  return {
    async measure(load: Load): Promise<Measured> {
      const answer = await ask(child, { kind: 'load', load })
      if (answer.kind === 'measured') return answer.measured
      throw new StackError(answer.kind === 'failed' ? answer.message : 'The load process answers something else.')
    },
    stop: () => endProcess(child),
  }
}

function ask(child: ChildProcess, command: Command): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const onExit = () => reject(new StackError('The process that makes the load has ended.'))
    child.once('exit', onExit)
    child.once('message', (answer: Answer) => {
      child.off('exit', onExit)
      resolve(answer)
    })
    child.send(command)
  })
}
