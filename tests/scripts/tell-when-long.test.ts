import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { tellWhenLong } from '../../stack/tell-when-long.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

test.each([
  [2_900, 0],
  [60_000, 1],
])('work of %i ms is told of %i times, and its result is there', async (ms, times) => {
  const tell = vi.fn()
  const work = tellWhenLong(new Promise((done) => setTimeout(done, ms, 'done')), tell)

  await vi.advanceTimersByTimeAsync(120_000)

  expect([await work, tell.mock.calls.length]).toEqual(['done', times])
})

test('work that fails fails, and nothing is told behind it', async () => {
  const tell = vi.fn()
  await expect(tellWhenLong(Promise.reject(new Error('no')), tell)).rejects.toThrow('no')

  await vi.advanceTimersByTimeAsync(120_000)

  expect(tell).not.toHaveBeenCalled()
})
