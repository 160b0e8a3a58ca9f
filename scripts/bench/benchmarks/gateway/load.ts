/**
 * Makes load, in a process of its own: a closed loop of callers, each on its own connection. Every answer is checked; one that is
 * not a whole answer of the provider ends the measurement with an error.
 */
import { createRequire } from 'node:module'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import type { Client } from 'undici-types'
import { countersBetween, readCounters } from './database-counters.ts'
import type { Answer, Command, Load, Measured, Processes, Quantiles, Target } from './load-contract.ts'
import { type CpuTimes, cpuMsBetween, cpuTimes } from './processes.ts'
import { quantile } from './quantile.ts'

/** Not an import: types are checked where the packages of scripts/bench are not installed; @types/node brings the types. */
const require = createRequire(import.meta.url)
const undici: typeof import('undici-types') = require('undici')

const answer = (message: Answer) => process.send?.(message)
let tokens: string[] = []
let nextUser = 0
const quietMs = 200
let counting: postgres.Sql | undefined

/** One per caller and system; kept between windows. */
const clients = new Map<string, Client[]>()
function clientsOf({ name, origins }: Target, count: number): Client[] {
  const kept = clients.get(name) ?? []
  const open = (origin = '') => new undici.Client(origin, { pipelining: 1, keepAliveTimeout: 60_000 })
  while (kept.length < count) kept.push(open(origins[kept.length % origins.length]))
  clients.set(name, kept)
  return kept.slice(0, count)
}

const prompt =
  'Summarise what a gateway between an application and a language model has to take care of, in three sentences.'

function bodyOf(model: string, stream: boolean): string {
  const messages = [
    { role: 'system', content: 'You answer briefly and to the point.' },
    { role: 'user', content: prompt },
  ]
  const options = stream ? { stream, stream_options: { include_usage: true } } : {}
  return JSON.stringify({ model, messages, max_tokens: 100, temperature: 0.7, ...options })
}

type Times = { total: number; first: number }

function call(client: Client, target: Target, body: string, user: number): Promise<Times> {
  const headers = {
    ...target.headers,
    'content-type': 'application/json',
    authorization: `Bearer ${tokens[user]}`,
    'x-bench-user': String(user),
  }
  const startedAt = performance.now()
  return new Promise((resolve, reject) => {
    let status = 0
    let first = 0
    const parts: Buffer[] = []
    client.dispatch(
      { path: target.path, method: 'POST', headers, body },
      {
        onRequestStart() {},
        onResponseStart(_controller, statusCode) {
          status = statusCode
        },
        onResponseData(_controller, part) {
          if (parts.length === 0) first = performance.now() - startedAt
          parts.push(part)
        },
        onResponseEnd() {
          const total = performance.now() - startedAt
          const text = Buffer.concat(parts).toString('latin1')
          const wrong = status === 200 ? complaint(text, body.includes('"stream":true')) : `status ${status}`
          if (wrong) reject(new Error(`${target.name}: ${wrong}: ${text.slice(0, 300)}`))
          else resolve({ total, first })
        },
        onResponseError(_controller, error) {
          reject(new Error(`${target.name}: ${error.message}`))
        },
      },
    )
  })
}

/** What is wrong with an answer: every word of the provider's must be there, its usage, and its end. */
function complaint(text: string, stream: boolean): string | undefined {
  if (!text.includes('"total_tokens":80')) return 'there is no usage'
  if (!stream) return text.includes('word49 ') && text.includes('"finish_reason":"stop"') ? undefined : 'cut short'
  if (!text.endsWith('data: [DONE]\n\n')) return 'the stream has no end'
  const events = text.split('"content":"word').length - 1
  return events === 50 ? undefined : `${events} events instead of 50`
}

const users = { hot: () => 0, spread: () => nextUser++ % tokens.length }

async function measure(load: Load): Promise<Measured> {
  const { target, callers, stream, users: whose } = load
  const model = `${target.modelPrefix ?? ''}${load.model}`
  const connections = clientsOf(target, callers)
  // One lap that does not count: connections that were closed meanwhile are opened again.
  const lap = bodyOf(model.replace(/-\d+$/, '-0'), false)
  await Promise.all(connections.map((client) => call(client, target, lap, users[whose]())))
  // Streams that are looked at one by one must not meet what the lap left to be done.
  if (load.staggerMs) await sleep(quietMs)
  const counters = target.processes.postgres ? counting : undefined
  const countedBefore = counters && (await readCounters(counters))
  const stalls = monitorEventLoopDelay({ resolution: 5 })
  stalls.enable()
  const cpuBefore = readCpu(target.processes)
  const startedAt = performance.now()
  const body = bodyOf(model, stream)
  const times = await run(load, connections, (client) => call(client, target, body, users[whose]()))
  const ms = performance.now() - startedAt
  const cpuAfter = readCpu(target.processes)
  stalls.disable()
  return {
    calls: times.length,
    ms,
    total: quantiles(times.map(({ total }) => total)),
    first: quantiles(times.map(({ first }) => first)),
    cpuMs: Object.fromEntries([...cpuAfter].map(([name, after]) => [name, cpuMsBetween(cpuBefore.get(name), after)])),
    ...(counters && countedBefore && { database: countersBetween(countedBefore, await readCounters(counters)) }),
    stallMs: stalls.max / 1e6,
  }
}

const readCpu = (processes: Processes): Map<string, CpuTimes> =>
  new Map(
    Object.entries({ client: [{ pid: process.pid }], ...processes }).map(([name, watched]) => [
      name,
      cpuTimes(watched),
    ]),
  )

/** Every caller makes one call after another. All have ended before this answers, also when one has failed. */
async function run(
  { amount, staggerMs = 0, perSecond }: Load,
  connections: Client[],
  one: (client: Client) => Promise<Times>,
): Promise<Times[]> {
  const startedAt = performance.now()
  const times: Times[] = []
  const failures: unknown[] = []
  let begun = 0
  const until = async (ms: number) => {
    const earlyMs = startedAt + ms - performance.now()
    if (earlyMs > 0) await sleep(earlyMs)
  }
  const hasMore = (made: number) =>
    'ms' in amount ? performance.now() - startedAt < amount.ms : made < amount.perCaller
  const caller = async (client: Client, at: number) => {
    if (staggerMs > 0) await until((staggerMs * at) / connections.length)
    for (let made = 0; failures.length === 0 && (made === 0 || hasMore(made)); made += 1) {
      if (perSecond !== undefined) await until((1000 * begun++) / perSecond)
      times.push(await one(client))
    }
  }
  await Promise.all(connections.map((client, at) => caller(client, at).catch((error) => failures.push(error))))
  if (failures.length > 0) throw failures[0]
  return times
}

const quantiles = (values: number[]): Quantiles => ({
  p50: quantile(values, 0.5),
  p90: quantile(values, 0.9),
  p99: quantile(values, 0.99),
})

process.on('message', async (command: Command) => {
  if (command.kind === 'setup') {
    tokens = command.tokens
    counting = postgres(command.superuserUrl, { max: 1, onnotice: () => {} })
    return answer({ kind: 'ready' })
  }
  try {
    answer({ kind: 'measured', measured: await measure(command.load) })
  } catch (error) {
    answer({ kind: 'failed', message: error instanceof Error ? error.message : String(error) })
  }
})
process.on('disconnect', () => process.exit())
