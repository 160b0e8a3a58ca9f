/** One timer has every deadline, and the marks of streams that run: neither calls nor chunks set one of their own. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { gatherLines } from '../../functions/_shared/ai/log-lines.ts'
import { createMarks, createPatience, watchCall } from '../../functions/_shared/ai/watch-call.ts'
import type { LogLine } from '../../functions/_shared/ai/world.ts'
import { createWheel } from '../../functions/_shared/wheel.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function createMarking(start: (callIds: string[]) => Promise<unknown> = async () => {}) {
  const marked: string[][] = []
  const log: LogLine[] = []
  const marks = createMarks({
    wheel: createWheel(),
    waitUntil: () => {},
    log: (line) => void log.push(line),
    start: (ids) => {
      marked.push(ids)
      return start(ids)
    },
  })
  return { marks, marked, log }
}

test('streams that have run for a second are marked together, once, and those that ended before never', () => {
  const { marks, marked } = createMarking()

  for (const id of ['a', 'b', 'c']) marks.begin(id)
  vi.advanceTimersByTime(500)
  marks.begin('later')
  marks.end('b')
  expect(marked).toEqual([])
  vi.advanceTimersByTime(750)
  expect(marked).toEqual([['a', 'c']])
  vi.advanceTimersByTime(10_000)

  expect(marked).toEqual([['a', 'c'], ['later']])
})

test('a mark that fails is said in the log, and no stream hears of it', async () => {
  const { marks, log } = createMarking(() => Promise.reject(new Error('away')))

  marks.begin('a')
  await vi.advanceTimersByTimeAsync(1_250)

  expect(log).toMatchObject([{ level: 'error', message: 'starts were not recorded' }])
})

const readsOn = () => false

test('a thousand calls have one timer, and when all are over none', () => {
  const wheel = createWheel()
  const watches = Array.from({ length: 1_000 }, () =>
    watchCall(new AbortController().signal, { totalMs: 60_000, readsOn }, wheel),
  )
  const { marks } = createMarking()

  expect(vi.getTimerCount()).toBe(1)
  for (const watch of watches) watch.end()
  marks.begin('a')
  marks.end('a')
  vi.advanceTimersByTime(250)

  expect(vi.getTimerCount()).toBe(0)
})

test('silence ends an attempt no sooner than was agreed, and half a second later at most', () => {
  const { beginAttempt, expectByte, noteByte } = watchCall(
    new AbortController().signal,
    { totalMs: 60_000, readsOn },
    createWheel(),
  )
  const signal = beginAttempt()

  expectByte(1_000)
  vi.advanceTimersByTime(900)
  noteByte(1_000)
  vi.advanceTimersByTime(999)
  expect(signal.aborted).toBe(false)
  vi.advanceTimersByTime(501)

  expect(signal.reason).toMatchObject({ code: 'upstream_timeout' })
})

test('nobody waits for a byte while the caller is slow, and the whole call still ends', () => {
  const { signal, beginAttempt, expectByte, expectNothing } = watchCall(
    new AbortController().signal,
    { totalMs: 5_000, readsOn },
    createWheel(),
  )
  const attempt = beginAttempt()

  expectByte(1_000)
  expectNothing()
  vi.advanceTimersByTime(4_999)
  expect([attempt.aborted, signal.aborted]).toEqual([false, false])
  vi.advanceTimersByTime(251)

  expect(signal.reason).toMatchObject({ code: 'upstream_timeout' })
})

test('patience ends by itself, and hears of what comes in time', async () => {
  const patience = createPatience(createWheel())
  const late = patience(1_000, new Promise(() => {}))
  const soon = patience(1_000, Promise.resolve('done'))
  const failed = patience(1_000, Promise.reject(new Error('no'))).catch(() => 'failed')

  await vi.advanceTimersByTimeAsync(1_250)

  expect(await Promise.all([late, soon, failed])).toEqual([undefined, 'done', 'failed'])
  await vi.advanceTimersByTimeAsync(250)
  expect(vi.getTimerCount()).toBe(0)
})

test('lines of one moment are written at once, in their order, and many do not wait', async () => {
  const written: string[] = []
  const work: Promise<unknown>[] = []
  const log = gatherLines(
    (text) => written.push(text),
    (running) => void work.push(running),
  )

  log({ a: 1 })
  log({ a: 2 })
  expect(written).toEqual([])
  await vi.advanceTimersByTimeAsync(20)
  await Promise.all(work)
  for (let line = 0; line < 100; line += 1) log({ line })

  expect(written).toEqual([
    '{"a":1}\n{"a":2}',
    expect.stringMatching(/^{"line":0}(?:\n{"line":\d+}){98}\n{"line":99}$/),
  ])
  log({ last: true })
  await vi.advanceTimersByTimeAsync(40)
  expect(written[2]).toBe('{"last":true}')
})
