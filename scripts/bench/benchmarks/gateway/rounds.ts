/** Rounds of short windows: in every round each case is measured with each system, in an order that turns from round to round. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Load, Measured } from './load-contract.ts'
import { modelName } from './seed.ts'
import { names, type SystemName, type Systems } from './systems.ts'

export type Case = { id: string; stream: boolean; delayMs: number; gapMs: number; callers: number }
/** `hot`: all calls are one user's. */
export type Side = SystemName | `${SystemName} hot`
/** A window that saw an error is `failed`, and nothing of it counts. */
export type Round = Map<string, Measured | 'failed'>
/** After its patience a run ends with the rounds that it has, at least three: a slow machine gets fewer, not smaller ones. */
export type Plan = { rounds: number; windowMs: number; streamsPerCaller: number; patienceMs: number }
const leastRounds = 3
/** A window in which the machine stood still for so long says nothing of the system, and is measured again, once. */
const stillMs = 100
const mostTries = 2

const callerCounts = [1, 16, 64]
const kinds = [
  { kind: 'JSON', stream: false, delayMs: 0, gapMs: 0 },
  { kind: 'JSON, provider 20 ms', stream: false, delayMs: 20, gapMs: 0 },
  { kind: 'stream', stream: true, delayMs: 0, gapMs: 0 },
  { kind: 'stream, 10 ms apart', stream: true, delayMs: 0, gapMs: 10 },
]

export const caseId = (kind: string, callers: number) => `${kind}, ${callers} caller${callers === 1 ? '' : 's'}`
export const cases: Case[] = kinds.flatMap(({ kind, ...rest }) =>
  callerCounts.map((callers) => ({ id: caseId(kind, callers), callers, ...rest })),
)
export const key = (id: string, side: Side) => `${id}: ${side}`

/** One hot user only where there is something to compete for. */
export function sidesOf({ stream, callers }: Case): Side[] {
  return !stream && callers === 64 ? [...names, 'two-trips hot', 'palisade hot'] : [...names]
}

type Amount = Load['amount']
type Measure = (side: Side, oneCase: Case, amount: Amount) => Promise<Measured | 'failed'>

export async function runRounds(systems: Systems, plan: Plan, progress: (text: string) => void): Promise<Round[]> {
  const measure = measureWith(systems, progress)
  await warmUp(measure, progress)
  const rounds: Round[] = []
  const startedAt = performance.now()
  for (let round = 0; round < plan.rounds; round += 1) {
    if (round >= leastRounds && performance.now() - startedAt > plan.patienceMs) break
    const found: Round = new Map()
    for (const [at, oneCase] of cases.entries())
      for (const side of inTurn(sidesOf(oneCase), round + at)) {
        const amount = oneCase.gapMs > 0 ? { perCaller: plan.streamsPerCaller } : { ms: plan.windowMs }
        found.set(key(oneCase.id, side), await measure(side, oneCase, amount))
      }
    rounds.push(found)
    progress(`round ${round + 1} of ${plan.rounds} after ${Math.round((performance.now() - startedAt) / 1000)} s`)
  }
  return rounds
}

/** Begins with another one each time, and every second time goes backwards: nobody always follows the same one. */
function inTurn<T>(items: T[], turn: number): T[] {
  const from = turn % items.length
  const turned = [...items.slice(from), ...items.slice(0, from)]
  return turned.length > 0 && turn % 2 === 1 ? turned.reverse() : turned
}

/** One error spoils a window, visibly. The run goes on: the machine may have stood still for seconds. */
function measureWith({ targets, load }: Systems, progress: (text: string) => void): Measure {
  return async (side, { id, stream, delayMs, gapMs, callers }, amount) => {
    const name = names.find((candidate) => side.startsWith(candidate)) ?? 'direct'
    const users = side.endsWith(' hot') ? 'hot' : 'spread'
    const wanted: Load = { target: targets[name], callers, stream, model: modelName(delayMs, gapMs), users, amount }
    try {
      let best = await load.measure(wanted)
      for (let tries = 1; best.stallMs > stillMs && tries < mostTries; tries += 1) {
        const again = await load.measure(wanted)
        if (again.stallMs < best.stallMs) best = again
      }
      return best
    } catch (error) {
      progress(`${id}, ${side}: ${error instanceof Error ? error.message : error}`)
      // What still runs for callers who have given up must not burden the next window.
      await sleep(5_000)
      return 'failed'
    }
  }
}

/** Few callers first: a process that has just begun, and its database, are slow. By time, so that it ends on any machine. */
async function warmUp(measure: Measure, progress: (text: string) => void): Promise<void> {
  const steps = [
    { stream: false, callers: 2, ms: 1_000 },
    { stream: true, callers: 2, ms: 1_000 },
    { stream: false, callers: 16, ms: 3_000 },
    { stream: true, callers: 16, ms: 2_000 },
  ]
  for (const name of names) {
    progress(`warming up ${name}`)
    for (const { ms, ...rest } of steps) await measure(name, { id: 'warm-up', delayMs: 0, gapMs: 0, ...rest }, { ms })
  }
}
