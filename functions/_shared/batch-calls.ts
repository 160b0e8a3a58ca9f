/**
 * Calls that wait together go to Postgres in one statement. Nobody waits for a timer: when a connection is free, what waits
 * leaves at once, alone if it is alone; while all are busy it gathers, so that batches grow with the load and only with it.
 */

import { toAppError } from './errors.ts'

type Lane = { waits(): boolean; leave(): Promise<void> }

/** So many batches are on their way at a time, of all kinds together; kinds that wait take turns. */
export function createBatches(mostInFlight: number) {
  const lanes: Lane[] = []
  let inFlight = 0
  let isDue = false

  const dispatch = () => {
    isDue = false
    while (inFlight < mostInFlight) {
      const at = lanes.findIndex((lane) => lane.waits())
      const [lane] = at < 0 ? [] : lanes.splice(at, 1)
      if (!lane) return
      lanes.push(lane)
      inFlight += 1
      lane.leave().finally(() => {
        inFlight -= 1
        dispatch()
      })
    }
  }

  /** `send` answers one result for each item, in their order. `isOneByOne` tells whether a failure may be the fault of one. */
  return function inBatches<Item, Answer>(
    send: (items: Item[]) => Promise<Answer[]>,
    isOneByOne: (error: unknown) => boolean,
    mostInBatch = 64,
  ): (item: Item) => Promise<Answer> {
    const waiting: Waiting<Item, Answer>[] = []
    const leave = () => sendTogether(waiting.splice(0, mostInBatch), send, isOneByOne)
    lanes.push({ waits: () => waiting.length > 0, leave })
    return (item) =>
      new Promise((resolve, reject) => {
        waiting.push({ item, resolve, reject })
        // What comes in the same turn leaves together.
        if (!isDue) queueMicrotask(dispatch)
        isDue = true
      })
  }
}

type Waiting<Item, Answer> = { item: Item; resolve(answer: Answer): void; reject(error: unknown): void }

/** Never rejects. A statement that fails does nothing at all, so what was in it can be sent again, each on its own. */
async function sendTogether<Item, Answer>(
  batch: Waiting<Item, Answer>[],
  send: (items: Item[]) => Promise<Answer[]>,
  isOneByOne: (error: unknown) => boolean,
): Promise<void> {
  try {
    const answers = await send(batch.map(({ item }) => item))
    if (answers.length !== batch.length) throw new Error(`${answers.length} answers to ${batch.length} calls`)
    for (const [at, answer] of answers.entries()) batch[at]?.resolve(answer)
  } catch (error) {
    if (batch.length > 1 && isOneByOne(error)) {
      await Promise.all(batch.map((one) => sendTogether([one], send, isOneByOne)))
      return
    }
    for (const { reject } of batch) reject(error)
  }
}

/**
 * An error that Postgres itself raised, and not because the connection (08) or the server (57P) went away: nothing was done, and
 * any one of the batch may be the reason. After a lost connection or our own deadline it is unknown what was done.
 */
export function isOnesFault(error: unknown): boolean {
  const { cause } = toAppError(error).details
  if (!(cause instanceof Error) || cause.name !== 'PostgresError' || !('code' in cause)) return false
  return typeof cause.code === 'string' && !/^(?:08|57P)/.test(cause.code)
}
