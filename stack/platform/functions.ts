/** Runs the Edge Functions: starts Deno, starts it again when it dies or when a function changes, and stops it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { type FSWatcher, watch } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { type FunctionFiles, PlatformError } from './config.ts'
import { endProcess, movedClock } from './postgres.ts'

type FunctionsOptions = {
  files: FunctionFiles
  port: number
  env: Record<string, string>
  watch: boolean
  log(line: string): void
}

const readyMs = 30_000
const graceMs = 7_000 // The server itself takes up to 5 s to finish what runs.
const healthyMs = 10_000

export function startFunctions(options: FunctionsOptions) {
  const { port, log } = options
  let child = spawnServer(options)
  let startedAt = Date.now()
  let failures = 0
  let stopped = false
  let restarting: Promise<void> | undefined

  const supervise = (server: ChildProcess) => {
    const startAgain = async (what: string) => {
      if (stopped || restarting || server !== child) return
      failures = Date.now() - startedAt > healthyMs ? 0 : failures + 1
      const delayMs = Math.min(250 * 2 ** failures, 10_000)
      log(`functions: ${what}, starts again in ${delayMs} ms`)
      await sleep(delayMs)
      if (!stopped && server === child) start()
    }
    // One that could not be started, for want of memory or of files, never exits.
    server.on('error', (error) => void startAgain(`Deno cannot run: ${error.message}`))
    server.once('exit', (code, signal) => void startAgain(`ended unexpectedly (${signal ?? code})`))
  }
  const start = () => {
    child = spawnServer(options)
    startedAt = Date.now()
    supervise(child)
  }
  const restart = async () => {
    await endProcess(child, graceMs)
    restarting = undefined
    if (!stopped) start()
  }
  supervise(child)

  const watcher = options.watch
    ? watchFunctions(options, () => {
        if (stopped || restarting) return
        log('functions: a file changed, restarting')
        restarting = restart()
      })
    : undefined

  return {
    pid: (): number | undefined => child.pid,

    /** Resolves when the server answers; rejects when it does not within half a minute. */
    async ready(): Promise<void> {
      for (const until = Date.now() + readyMs; Date.now() < until && !stopped; await sleep(25)) {
        if (child.pid !== undefined && (await healthyPid(port)) === child.pid) return
      }
      throw new PlatformError(`The functions do not answer on port ${port}. Is it taken by another program?`)
    },

    async stop(): Promise<void> {
      stopped = true
      watcher?.close()
      await restarting
      await endProcess(child, graceMs)
    },
  }
}

/** The pid tells our server from a stranger on the same port. */
async function healthyPid(port: number): Promise<number | undefined> {
  try {
    const response = await fetch(`http://127.0.0.1:${port}/_health`, { signal: AbortSignal.timeout(1_000) })
    const health: unknown = await response.json()
    return typeof health === 'object' && health !== null && 'pid' in health && typeof health.pid === 'number'
      ? health.pid
      : undefined
  } catch {
    return undefined
  }
}

/** In its own process group, so that Ctrl-C reaches it through us; its stdin is a leash that ends it when we die. */
function spawnServer({ files, port, env, log }: FunctionsOptions): ChildProcess {
  const child: ChildProcess = spawn(denoBinary(), [...denoArguments(files), files.folder, String(port)], {
    cwd: dirname(files.folder),
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: {
      ...env,
      ...movedClock(),
      DENO_DIR: files.cache,
      DENO_NO_UPDATE_CHECK: '1',
      NO_COLOR: '1',
    },
  })
  // None of these is there when the machine has no more files to give.
  child.stdin?.on('error', () => {})
  for (const stream of [child.stdout, child.stderr])
    if (stream) createInterface({ input: stream }).on('line', (line) => log(`functions: ${line}`))
  return child
}

/**
 * Nothing is downloaded, packages come from node_modules as they are. A flag and not a line of deno.json: what is deployed
 * has no node_modules, and takes the packages that deno.json names.
 */
export const denoOffline = [
  ...['--node-modules-dir=manual', '--no-lock', '--no-remote', '--cached-only', '--no-prompt', '--quiet'],
]

/**
 * Reads only the functions and their packages, writes nothing, starts nothing. `--allow-env` shows no more than the list
 * given to `spawn`; the network stays open, because providers are rows in a table.
 */
function denoArguments({ folder, packages }: FunctionFiles): string[] {
  const permissions = ['--allow-net', '--allow-env', `--allow-read=${folder},${packages}`]
  const server = fileURLToPath(new URL('functions-server.ts', import.meta.url))
  // Without it a request's signal aborts at the end of every answer, and hanging up cannot be told from reading to the end.
  const signals = '--unstable-no-legacy-abort'
  return ['run', signals, ...denoOffline, ...permissions, '--config', join(folder, 'deno.json'), server]
}

export function denoBinary(): string {
  const require = createRequire(import.meta.url)
  const folder = dirname(require.resolve('deno/package.json'))
  return join(folder, process.platform === 'win32' ? 'deno.exe' : 'deno')
}

/** Editors write a file in several steps: one change after they are done. */
function watchFunctions({ files, log }: FunctionsOptions, onChange: () => void): FSWatcher {
  let timer: NodeJS.Timeout | undefined
  const watcher = watch(files.folder, { recursive: true }, () => {
    clearTimeout(timer)
    timer = setTimeout(onChange, 150)
  })
  // A machine watches so many files and no more.
  return watcher.on('error', (error) => log(`functions: changes are not noticed any more: ${error.message}`))
}
