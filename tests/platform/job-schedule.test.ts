import { describe, expect, test } from 'vitest'
import { createScheduler, dueMinutes, type Job } from '../../stack/platform/jobs/schedule.ts'

const job = (jobid: string, more: Partial<Job> = {}): Job => ({
  ...{ jobid, command: 'select 1', username: 'postgres', database: 'postgres', seconds: null, due: 0 },
  ...more,
})

/** A scheduler whose runs end when the test says so. */
function scheduler() {
  const running: string[] = []
  const started: string[] = []
  const end = new Map<string, () => void>()
  const { take } = createScheduler(({ jobid }) => {
    started.push(jobid)
    running.push(jobid)
    return new Promise<void>((resolve) =>
      end.set(jobid, () => {
        running.splice(running.indexOf(jobid), 1)
        resolve()
      }),
    )
  })
  const finish = async (jobid: string) => {
    end.get(jobid)?.()
    await new Promise(setImmediate)
  }
  return { take, started, running, finish }
}

describe('the minutes to look at', () => {
  const at = 1000
  test.each([
    ['none has passed', at, { wild: [], fixed: [], last: 1000 }],
    ['one has passed', at + 1, { wild: [1001], fixed: [1001], last: 1001 }],
    [
      'a few were missed, and all are made up for',
      at + 3,
      { wild: [1001, 1002, 1003], fixed: [1001, 1002, 1003], last: 1003 },
    ],
    [
      'the clock jumped: fixed times are made up for, the rest runs once',
      at + 7,
      { wild: [1007], fixed: [1001, 1002, 1003, 1004, 1005, 1006, 1007], last: 1007 },
    ],
    ['the clock was set anew: as if nothing had been', at + 5000, { wild: [6000], fixed: [6000], last: 6000 }],
    ['the clock went back: no fixed time twice', at - 60, { wild: [940], fixed: [], last: 1000 }],
    ['the clock was set back by a day', at - 1440, { wild: [-440], fixed: [-440], last: -440 }],
  ])('%s', (_case, now, minutes) => {
    expect(dueMinutes(at, now)).toEqual(minutes)
  })
})

test('a job does not run beside itself: what became due meanwhile follows, run after run', async () => {
  const { take, started, running, finish } = scheduler()
  for (const minute of [1, 2, 3]) take([job('slow', { due: 1 }), job('quick', { due: 1 })], minute * 60_000)

  expect(started).toEqual(['slow', 'quick'])
  for (let ended = 1; ended <= 3; ended += 1) {
    expect(running.filter((id) => id === 'slow')).toHaveLength(1)
    await finish('slow')
  }
  expect(started.filter((id) => id === 'slow')).toHaveLength(3)
})

test('by seconds at most one run waits, however long the one before it took', async () => {
  const { take, started, finish } = scheduler()
  for (let second = 0; second < 100; second += 1) take([job('slow', { seconds: 5 })], second * 1_000)

  await finish('slow')
  await finish('slow')

  expect(started).toEqual(['slow', 'slow'])
})

test('by seconds it goes on after the clock went forward and back', async () => {
  const { take, started, finish } = scheduler()
  const day = 86_400_000
  for (const at of [day, 2 * day, day, day + 5_000]) {
    take([job('often', { seconds: 5 })], at)
    await finish('often')
  }

  expect(started).toHaveLength(4)
})

test('thirty-two run at once, and the next one when one of them ends', async () => {
  const { take, started, finish } = scheduler()
  take(
    Array.from({ length: 40 }, (_, index) => job(String(index), { due: 1 })),
    0,
  )

  expect(started).toHaveLength(32)
  await finish('0')
  expect(started).toHaveLength(33)
})

test('a job that is taken away or switched off does not run what it had waiting', async () => {
  const { take, started, finish } = scheduler()
  take([job('gone', { due: 3 })], 0)

  take([], 60_000)
  await finish('gone')
  take([job('gone', { due: 0 })], 120_000)

  expect(started).toEqual(['gone'])
})
