/** Applies what waits in the inbox: reads what each event is about from Stripe, and hands it to SQL together with the event. */
import { describeFailure } from '../failure.ts'
import { readObjects } from './read-objects.ts'
import { readOnce } from './read-once.ts'
import type { Applied, ApplyWorld, ClaimedEvent, Failed } from './world.ts'

const batchSize = 10
/** Below the 60 s that pg_net waits. */
const defaultBudgetMs = 45_000

type Outcome = Applied | Failed
export type AppliedCounts = Record<'applied' | 'ignored' | 'superseded' | 'failed' | 'dead', number>

/**
 * Every event is on its own: one that fails is tried again later, and says nothing of the others. Events of a batch that are
 * about the same object share one reading of it, which began after all of them had arrived.
 */
export async function applyEvents(world: ApplyWorld, budgetMs = defaultBudgetMs): Promise<AppliedCounts> {
  const until = world.now() + budgetMs
  const counts = { applied: 0, ignored: 0, superseded: 0, failed: 0, dead: 0 }
  while (world.now() < until) {
    const events = await world.claim(batchSize)
    if (events.length === 0) break
    const context = { reader: readOnce(world.reader), readAt: await world.databaseTime(), livemode: world.livemode }
    const outcomes = await Promise.all(events.map((event) => applyOne(event, context, world)))
    for (const outcome of outcomes) counts[outcome === 'waiting' ? 'failed' : outcome] += 1
  }
  return counts
}

async function applyOne(
  event: ClaimedEvent,
  context: Parameters<typeof readObjects>[1],
  world: ApplyWorld,
): Promise<Outcome> {
  try {
    // What happens in another account is none of our business, and our key reads nothing there.
    return await world.apply(event, event.account === null ? await readObjects(event, context) : [])
  } catch (error) {
    return noteFailure(event, describeFailure(error), world)
  }
}

async function noteFailure(event: ClaimedEvent, why: string, world: ApplyWorld): Promise<Outcome> {
  const line = { message: 'a Stripe event was not applied', event_id: event.id, type: event.type, cause: why }
  try {
    const state = await world.fail(event, why)
    world.log({ level: state === 'dead' ? 'error' : 'warn', ...line, state })
    return state
  } catch (error) {
    // The lease ends by itself, and the event is claimed again.
    world.log({ level: 'error', ...line, state: 'unknown', database: describeFailure(error) })
    return 'waiting'
  }
}
