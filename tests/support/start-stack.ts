/** A whole stack in a process of its own, in a folder and on ports of its own: for tests that break it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root } from '../../stack/config.ts'
import { freeRange } from './ports.ts'
import { runScript } from './run-script.ts'

export type Place = { env: NodeJS.ProcessEnv; data: string; port: number }
/** `screen` is what it had printed when it was ready, `output` all until now. */
export type Started = { child: ChildProcess; screen: string; output(): string; ended: Promise<number | null> }

export async function newPlace(): Promise<Place> {
  const data = await mkdtemp(join(tmpdir(), 'palisade-commands-'))
  const port = await freeRange(20_000)
  return { data, port, env: { ...process.env, PALISADE_DATA: data, PALISADE_PORT: String(port) } }
}

/** Starts a stack and waits for its screen. */
export async function start({ env }: Place): Promise<Started> {
  const stack = launch(env)
  const screen = await new Promise<string>((resolve, reject) => {
    const look = () => {
      if (/^curl .*\n/m.test(stack.output())) resolve(stack.output())
    }
    stack.child.stdout?.on('data', look)
    stack.child.once('exit', () => reject(new Error(stack.output())))
  })
  return { ...stack, screen }
}

/** Starts a stack and waits for nothing. */
function launch(env: NodeJS.ProcessEnv): Omit<Started, 'screen'> {
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk))
  return { child, output: () => output, ended }
}

export async function remove({ env, data }: Place, child?: ChildProcess): Promise<void> {
  child?.kill('SIGKILL')
  await runScript('stop', [], env)
  await rm(data, { recursive: true, force: true })
}
