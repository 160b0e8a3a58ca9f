/** Applies what waits in the inbox: reads what each event is about from Stripe, and hands it to SQL together with the event. */
import { describeFailure } from '../failure.ts'
import type { BillingDatabase, ClaimedEvent } from './billing-database.ts'
import { readObjects } from './read-objects.ts'
import type { StripeReader } from './stripe-reader.ts'

const batchSize = 25
/** Below the 60 s that pg_net waits. */
const defaultBudgetMs = 45_000

export type ApplyWorld = {
  database: BillingDatabase
  reader: StripeReader
  livemode: boolean
  /** Epoch milliseconds. */
  now(): number
  log(line: Record<string, unknown>): void
}

type Outcome = Awaited<ReturnType<BillingDatabase['applyEvent'] | BillingDatabase['failEvent']>>
export type AppliedCounts = Record<'applied' | 'ignored' | 'superseded' | 'failed' | 'dead', number>

/**
 * Every event is on its own: one that fails is tried again later, and says nothing of the others. Events of a batch that are
 * about the same object share one reading of it, which began after all of them had arrived.
 */
export async function applyEvents(world: ApplyWorld, budgetMs = defaultBudgetMs): Promise<AppliedCounts> {
  const until = world.now() + budgetMs
  const counts = { applied: 0, ignored: 0, superseded: 0, failed: 0, dead: 0 }
  while (world.now() < until) {
    const events = await world.database.claimEvents(batchSize)
    if (events.length === 0) break
    const context = {
      reader: readOnce(world.reader),
      readAt: await world.database.databaseTime(),
      livemode: world.livemode,
    }
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
    const readings = event.account === null ? await readObjects(event, context) : []
    return await world.database.applyEvent({ id: event.id, attempt: event.attempt, readings })
  } catch (error) {
    return noteFailure(event, describeFailure(error), world)
  }
}

async function noteFailure(event: ClaimedEvent, why: string, world: ApplyWorld): Promise<Outcome> {
  const line = { message: 'a Stripe event was not applied', event_id: event.id, type: event.type, cause: why }
  try {
    const state = await world.database.failEvent(event, why)
    world.log({ level: state === 'dead' ? 'error' : 'warn', ...line, state })
    return state
  } catch (error) {
    // The lease ends by itself, and the event is claimed again.
    world.log({ level: 'error', ...line, state: 'unknown', database: describeFailure(error) })
    return 'waiting'
  }
}

/** A reader that asks Stripe once for each object: for the events of one batch. */
function readOnce(reader: StripeReader): StripeReader {
  const asked = new Map<string, Promise<unknown>>()
  const once =
    (kind: 'customer' | 'subscription' | 'invoice' | 'checkoutSession' | 'refund' | 'dispute' | 'creditNote') =>
    (id: string) => {
      const key = `${kind} ${id}`
      const answer = asked.get(key) ?? reader[kind](id)
      asked.set(key, answer)
      return answer
    }
  return {
    ...reader,
    customer: once('customer'),
    subscription: once('subscription'),
    invoice: once('invoice'),
    checkoutSession: once('checkoutSession'),
    refund: once('refund'),
    dispute: once('dispute'),
    creditNote: once('creditNote'),
  }
}

/**
 * Starts passes over the inbox from wherever events arrive: one at a time, and one more when something came meanwhile. A burst
 * of a thousand deliveries starts a few passes, not a thousand. A pass that fails, because the database is away, is for `failed`
 * to tell: nobody else hears of it.
 */
export function createTurns(
  pass: () => Promise<unknown>,
  waitUntil: (work: Promise<unknown>) => void,
  failed: (error: unknown) => void,
): () => void {
  let isRunning = false
  let isWanted = false
  const run = async () => {
    isRunning = true
    try {
      while (isWanted) {
        isWanted = false
        await pass()
      }
    } catch (error) {
      failed(error)
    } finally {
      isRunning = false
    }
  }
  return () => {
    isWanted = true
    if (!isRunning) waitUntil(run())
  }
}
