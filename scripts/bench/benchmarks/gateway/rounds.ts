/** Rounds of short windows: in every round each case is measured with each system, in an order that turns from round to round. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Load, Measured } from './load-contract.ts'
import { modelName } from './seed.ts'
import { names, type SystemName, type Systems } from './systems.ts'

/** `hot`: all calls are one user's. */
export type Side = SystemName | `${SystemName} hot`
export type Case = {
  id: string
  stream: boolean
  delayMs: number
  gapMs: number
  callers: number
  staggerMs?: number
  sides: readonly Side[]
}
/** A window that saw an error is `failed`, and nothing of it counts. */
export type Round = Map<string, Measured | 'failed'>
/** After its patience a run ends with the rounds that it has, at least three: a slow machine gets fewer, not smaller ones. */
export type Plan = { rounds: number; windowMs: number; streamsPerCaller: number; patienceMs: number }
const leastRounds = 3
/** A window in which the machine stood still for so long says nothing of the system, and is measured again, once. */
const stillMs = 100
const mostTries = 2

const each: Side[] = ['direct', 'pass-through', 'two-trips', 'portkey', 'llms', 'palisade']
const two: Side = 'palisade, two processes'
const pooled: Side = 'palisade, PgBouncer'
const json = { stream: false, delayMs: 0, gapMs: 0 }

export const cases = {
  alone: { id: 'JSON, 1 caller', ...json, callers: 1, sides: [...each, pooled] },
  among16: { id: 'JSON, 16 callers', ...json, callers: 16, sides: each },
  among64: {
    id: 'JSON, 64 callers',
    ...json,
    callers: 64,
    sides: [...each, 'two-trips hot', 'palisade hot', two, pooled],
  },
  slow: { id: 'JSON, provider 20 ms, 64 callers', ...json, delayMs: 20, callers: 64, sides: [...each, two] },
  atOnce: { id: 'streams at once, 64 callers', stream: true, delayMs: 0, gapMs: 0, callers: 64, sides: [...each, two] },
  spaced: {
    id: 'streams 10 ms apart, 64 callers',
    ...{ stream: true, delayMs: 0, gapMs: 10, callers: 64 },
    sides: [...each, two, pooled],
  },
  staggered: {
    id: '128 streams of 20 ms gaps, staggered',
    ...{ stream: true, delayMs: 0, gapMs: 20, callers: 128, staggerMs: 1_000 },
    sides: ['direct', 'pass-through', 'portkey', 'llms', 'palisade'],
  },
} as const satisfies Record<string, Case>

export const key = (id: string, side: Side) => `${id}: ${side}`

type Amount = Load['amount']
type Wanted = Omit<Case, 'sides'>
type Measure = (side: Side, oneCase: Wanted, amount: Amount) => Promise<Measured | 'failed'>

export async function runRounds(systems: Systems, plan: Plan, progress: (text: string) => void): Promise<Round[]> {
  const measure = measureWith(systems, progress)
  await warmUp([...systems.targets.keys()], measure, progress)
  const rounds: Round[] = []
  const startedAt = performance.now()
  for (let round = 0; round < plan.rounds; round += 1) {
    if (round >= leastRounds && performance.now() - startedAt > plan.patienceMs) break
    const found: Round = new Map()
    for (const [at, oneCase] of Object.values<Case>(cases).entries()) {
      const started = oneCase.sides.filter((side) => systems.targets.has(systemOf(side)))
      for (const side of inTurn(started, round + at)) {
        const amount = oneCase.gapMs > 0 ? { perCaller: plan.streamsPerCaller } : { ms: plan.windowMs }
        found.set(key(oneCase.id, side), await measure(side, oneCase, amount))
      }
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

const systemOf = (side: Side): SystemName => names.find((name) => side === name || side === `${name} hot`) ?? 'direct'

/** One error spoils a window, visibly. The run goes on: the machine may have stood still for seconds. */
function measureWith({ targets, load }: Systems, progress: (text: string) => void): Measure {
  return async (side, { id, stream, delayMs, gapMs, callers, staggerMs = 0 }, amount) => {
    const target = targets.get(systemOf(side))
    if (!target) throw new Error(`${side} was not started`)
    const users = side.endsWith(' hot') ? 'hot' : 'spread'
    const wanted: Load = { target, callers, stream, model: modelName(delayMs, gapMs), users, amount, staggerMs }
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
async function warmUp(started: SystemName[], measure: Measure, progress: (text: string) => void): Promise<void> {
  const steps = [
    { stream: false, callers: 2, ms: 1_000 },
    { stream: true, callers: 2, ms: 1_000 },
    { stream: false, callers: 16, ms: 3_000 },
    { stream: true, callers: 16, ms: 2_000 },
  ]
  for (const name of started) {
    progress(`warming up ${name}`)
    for (const { ms, ...rest } of steps) await measure(name, { id: 'warm-up', delayMs: 0, gapMs: 0, ...rest }, { ms })
  }
}
