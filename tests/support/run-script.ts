/**
 * Runs a script of ours in this process, as `node scripts/NAME.ts` would: with its arguments and its environment, to its exit code.
 * What a process of its own adds is the time to start it; where that is what a test is about (signals, kill -9), it is spawned.
 */
import { Console } from 'node:console'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { root } from '../../stack/config.ts'

export type Ended = { code: number; stdout: string; stderr: string; output: string }

const runs = { number: 0 }

/** One at a time: arguments, environment and output belong to the whole process. */
export async function runScript(name: string, args: string[], env: NodeJS.ProcessEnv): Promise<Ended> {
  const ended = { stdout: '', stderr: '', output: '' }
  const sink = (stream: 'stdout' | 'stderr') => (text: string | Uint8Array) => {
    ended[stream] += text
    ended.output += text
    return true
  }
  const before = {
    ...{ argv: process.argv, env: process.env, exitCode: process.exitCode, exit: process.exit, console },
    ...{ stdout: process.stdout.write, stderr: process.stderr.write },
  }
  process.argv = [process.execPath, `scripts/${name}.ts`, ...args]
  process.env = { ...env }
  process.exitCode = undefined
  // The only script that calls it does so when everything is done.
  process.exit = (() => {}) as typeof process.exit
  process.stdout.write = sink('stdout')
  process.stderr.write = sink('stderr')
  globalThis.console = new Console(stream(sink('stdout')), stream(sink('stderr')))
  try {
    runs.number += 1
    // Made anew each time; what it imports is loaded once.
    await import(/* @vite-ignore */ `${join(root, 'scripts', name)}.ts?run=${runs.number}`)
    return { code: Number(process.exitCode ?? 0), ...ended }
  } finally {
    process.argv = before.argv
    process.env = before.env
    process.exitCode = before.exitCode
    process.exit = before.exit
    process.stdout.write = before.stdout
    process.stderr.write = before.stderr
    globalThis.console = before.console
  }
}

const stream = (write: (text: string) => boolean) =>
  new Writable({
    decodeStrings: false,
    write(chunk: string, _encoding, done) {
      write(chunk)
      done()
    },
  })
