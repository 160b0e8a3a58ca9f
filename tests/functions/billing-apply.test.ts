/** What waits in the inbox is applied: each event on its own, from what Stripe says now. */
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { type ApplyWorld, applyEvents, createTurns } from '../../functions/_shared/billing/apply-events.ts'
import type { BillingDatabase, ClaimedEvent } from '../../functions/_shared/billing/billing-database.ts'
import type { Reading } from '../../functions/_shared/billing/readings.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'
import { createReader, customer, event, fakeDatabase, invoice, now, subscription } from './billing-world.ts'

const claimed = (
  id: string,
  object: { id: string; object: string },
  more: Partial<ClaimedEvent> = {},
): ClaimedEvent => ({
  ...{ id, type: `${object.object}.updated`, attempt: 1, account: null, object: object.object, object_id: object.id },
  payload: event(`${object.object}.updated`, object),
  ...more,
})

/** `said` is what a test changes of the database, `changes` of the rest. */
function createWorld(waiting: ClaimedEvent[], said: Partial<BillingDatabase> = {}, changes: Partial<ApplyWorld> = {}) {
  const applied = new Map<string, Reading[]>()
  const failed = new Map<string, string>()
  const { reader, asked } = createReader([subscription(), invoice(), customer()])
  const state = { clock: 0 }
  const database = fakeDatabase({
    claimEvents: async (limit) => waiting.splice(0, limit),
    databaseTime: async () => `2026-11-20T00:00:0${state.clock++}Z`,
    applyEvent: async ({ id, readings }) => {
      applied.set(id, readings)
      return readings.length > 0 ? 'applied' : 'ignored'
    },
    failEvent: async ({ id, attempt }, why) => {
      failed.set(id, why)
      return attempt > 2 ? 'dead' : 'waiting'
    },
    ...said,
  })
  const world: ApplyWorld = {
    ...{ database, reader, livemode: false, now: () => now, log: () => {} },
    ...changes,
  }
  return { world, applied, failed, asked, reader }
}

const kinds = (readings: Reading[] | undefined) => readings?.map(({ object }) => object)
const failing = (error: unknown) => () => Promise.reject(error)

describe('events', () => {
  test('of one batch share one reading of their object, stamped before it began', async () => {
    const events = [1, 2, 3].map((n) => claimed(`evt_${n}`, subscription()))
    const { world, applied, asked } = createWorld(events)

    expect(await applyEvents(world)).toEqual({ applied: 3, ignored: 0, superseded: 0, failed: 0, dead: 0 })

    expect(asked).toEqual(['sub_1', 'in_1'])
    expect(kinds(applied.get('evt_2'))).toEqual(['subscription', 'invoice'])
    expect(applied.get('evt_3')?.[0]?.read_at).toBe('2026-11-20T00:00:00Z')
  })

  test('beyond a batch are claimed until none is left', async () => {
    const { world, applied } = createWorld(Array.from({ length: 60 }, (_, n) => claimed(`evt_${n}`, customer())))

    await applyEvents(world)

    expect(applied.size).toBe(60)
    expect(applied.get('evt_59')?.[0]?.read_at).toBe('2026-11-20T00:00:02Z')
  })

  test('that fail stop no others, and are given back with the reason', async () => {
    const down = createReader([subscription(), invoice()]).reader
    const events = [
      claimed('evt_1', customer()),
      claimed('evt_2', subscription()),
      claimed('evt_3', customer(), { attempt: 3 }),
    ]
    const { world, applied, failed } = createWorld(
      events,
      {},
      {
        reader: { ...down, customer: failing(new TypeError('x')) },
      },
    )

    expect(await applyEvents(world)).toEqual({ applied: 1, ignored: 0, superseded: 0, failed: 1, dead: 1 })

    expect([...applied.keys()]).toEqual(['evt_2'])
    expect(failed.get('evt_1')).toBe('TypeError')
  })

  test('whose failure cannot be noted keep their lease, and stop no others either', async () => {
    const events = [claimed('evt_1', customer()), claimed('evt_2', subscription())]
    const applyEvent: BillingDatabase['applyEvent'] = ({ id }) =>
      id === 'evt_1' ? Promise.reject(new Error()) : Promise.resolve('applied')
    const { world } = createWorld(events, { applyEvent, failEvent: failing(new Error('down')) })

    expect(await applyEvents(world)).toMatchObject({ applied: 1, failed: 1 })
  })

  test('that another worker finished are counted as such', async () => {
    const { world } = createWorld([claimed('evt_1', customer())], { applyEvent: async () => 'superseded' })

    expect(await applyEvents(world)).toMatchObject({ superseded: 1, applied: 0 })
  })

  test('of other accounts read nothing', async () => {
    const { world, applied, asked } = createWorld([claimed('evt_1', customer(), { account: 'acct_1' })])

    await applyEvents(world)

    expect(asked).toEqual([])
    expect(applied.get('evt_1')).toEqual([])
  })

  test('are claimed no more when the time is over', async () => {
    let time = now
    const events = Array.from({ length: 75 }, (_, n) => claimed(`evt_${n}`, customer()))
    const { world, applied } = createWorld(
      events,
      {
        databaseTime: async () => {
          time += 30_000
          return '2026-11-20T00:00:00Z'
        },
      },
      { now: () => time },
    )

    await applyEvents(world, 45_000)

    expect(applied.size).toBe(50)
  })
})

describe('why one failed', () => {
  test.each<[string, unknown, string]>([
    [
      'an error of Stripe, without its words',
      Object.assign(new Error('No such customer: someone@example.com'), {
        ...{ type: 'StripeAPIError', code: 'api_error', statusCode: 500, requestId: 'req_1' },
      }),
      'Stripe: StripeAPIError api_error 500 req_1',
    ],
    [
      'a parameter that Stripe refuses, by its name',
      Object.assign(new Error('No such price: price_1'), {
        ...{
          type: 'StripeInvalidRequestError',
          code: 'resource_missing',
          param: 'line_items[0][price]',
          statusCode: 400,
        },
      }),
      'Stripe: StripeInvalidRequestError resource_missing line_items[0][price] 400',
    ],
    [
      'an error of Postgres, without its values',
      Object.assign(new Error('duplicate key (someone@example.com)'), {
        ...{ name: 'PostgresError', code: '23505', constraint_name: 'payments_pkey', routine: '_bt_check_unique' },
      }),
      'Postgres: 23505 payments_pkey _bt_check_unique',
    ],
    [
      'a shape that is not known, by its place',
      z.object({ lines: z.object({ data: z.array(z.string()) }) }).safeParse({ lines: { data: [5] } }).error,
      'the answer has another form: lines.data.0 invalid_type',
    ],
    ['anything else, by its name', new RangeError('someone@example.com'), 'RangeError'],
  ])('is said of %s', (_name, error, said) => {
    expect(describeFailure(error)).toBe(said)
  })
})

test('a burst of arrivals starts one pass, and one more for what came meanwhile', async () => {
  const running: Promise<unknown>[] = []
  let passes = 0
  let finish = () => {}
  const pass = () => {
    passes += 1
    return new Promise<void>((done) => {
      finish = done
    })
  }
  const start = createTurns(
    pass,
    (work) => void running.push(work),
    () => {},
  )
  for (let n = 0; n < 100; n += 1) start()
  expect([passes, running.length]).toEqual([1, 1])

  finish()
  await expect.poll(() => passes).toBe(2)
  finish()
  await running[0]
  start()

  expect([passes, running.length]).toEqual([3, 2])
})

test('a pass that fails is told, is no unhandled rejection, and does not keep the next from starting', async () => {
  const running: Promise<unknown>[] = []
  const told: unknown[] = []
  const pass = () => Promise.reject(new Error('the database is down'))
  const start = createTurns(
    pass,
    (work) => void running.push(work),
    (error) => void told.push(error),
  )

  start()
  await running[0]
  start()
  await running[1]

  expect(told).toEqual([new Error('the database is down'), new Error('the database is down')])
})
