/** How long a body may take: whoever sends slowly keeps a connection and memory, whatever the servers before us allow. */
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { z } from 'zod'
import { BodyTooSlow, readBody, readFramedBody, readJson } from '../../functions/_shared/http/read-body.ts'
import { createWheel } from '../../functions/_shared/wheel.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => {
  // The wheel of the doors stops at its next turn.
  vi.advanceTimersByTime(1_000)
  vi.useRealTimers()
})

/** A body that is sent by hand, and whether its sender was told to stop. */
function createUpload(headers: Record<string, string> = {}) {
  const cancel = vi.fn()
  let stream: ReadableStreamDefaultController | undefined
  const body = new ReadableStream({
    start(controller) {
      stream = controller
    },
    cancel,
  })
  const init = { method: 'POST', body, duplex: 'half', headers } as RequestInit
  const send = async (bytes: number, ms: number) => {
    if (cancel.mock.calls.length === 0) stream?.enqueue(new Uint8Array(bytes))
    await vi.advanceTimersByTimeAsync(ms)
  }
  return { request: new Request('http://functions/', init), send, close: () => stream?.close(), cancel }
}

/** How reading ended, as soon as it did. */
function watch(reading: Promise<{ byteLength: number }>) {
  const seen: { ended?: unknown } = {}
  reading.then(
    ({ byteLength }) => {
      seen.ended = byteLength
    },
    (cause) => {
      seen.ended = cause
    },
  )
  return seen
}

const megabyte = 1_000_000
const start = (limitBytes = 20 * megabyte) => {
  const upload = createUpload()
  return { ...upload, reading: watch(readBody(upload.request, { limitBytes, wheel: createWheel() })) }
}

test('a byte and then nothing is ended after ten seconds, and the sender is told to stop', async () => {
  const { reading, send, cancel } = start()

  await send(1, 9_500)
  expect(reading.ended).toBeUndefined()
  await send(0, 1_000)

  expect(reading.ended).toBeInstanceOf(BodyTooSlow)
  expect(cancel).toHaveBeenCalledOnce()
  expect(vi.getTimerCount()).toBe(0)
})

test.each([1, 1_000, 15_000])('%i bytes a second are too slow', async (bytes) => {
  const { reading, send } = start()

  for (let second = 0; second < 11; second += 1) await send(bytes, 1_000)

  expect(reading.ended).toBeInstanceOf(BodyTooSlow)
})

test('whoever sends much and then dawdles is ended within two stretches of ten seconds', async () => {
  const { reading, send } = start()
  await send(15 * megabyte, 1_000)

  for (let second = 0; second < 20; second += 1) await send(100_000, 1_000)

  expect(reading.ended).toBeInstanceOf(BodyTooSlow)
})

test('after a minute every body is ended', async () => {
  const { reading, send } = start(1_000 * megabyte)

  for (let second = 0; second < 59; second += 1) await send(megabyte, 1_000)
  expect(reading.ended).toBeUndefined()
  await send(megabyte, 2_000)

  expect(reading.ended).toBeInstanceOf(BodyTooSlow)
})

test('whatever comes at a steady rate of 17 kB a second or more, and within a minute, is taken', async () => {
  const rates = fc.tuple(fc.integer({ min: 17_000, max: 400_000 }), fc.integer({ min: 1, max: 58 }))
  await fc.assert(
    fc.asyncProperty(rates, async ([rate, seconds]) => {
      const { reading, send, close } = start(24 * megabyte)

      for (let second = 0; second < seconds; second += 1) await send(rate, 1_000)
      close()
      await vi.advanceTimersByTimeAsync(0)

      expect(reading.ended).toBe(rate * seconds)
    }),
    { numRuns: 30 },
  )
})

test('what the sender waits for here is not the time of the sender', async () => {
  const upload = createUpload()
  const letIn = () => new Promise<never>(() => {})
  const reading = watch(readBody(upload.request, { limitBytes: 10, letIn, wheel: createWheel() }))

  await upload.send(11, 300_000)

  expect(reading.ended).toBeUndefined()
})

describe('the other doors have the same end', () => {
  const slowly = 'The body came too slowly: send at least 16 kB a second, and all of it within a minute.'

  test('small JSON', async () => {
    const { request, send } = createUpload()
    const refused = expect(readJson(request, z.object({}))).rejects.toMatchObject({ message: slowly })

    await send(1, 11_000)

    await refused
  })

  test.each([{ 'content-length': '100' }, {}])('a framed body with %o', async (headers) => {
    const { request, send } = createUpload(headers)
    const reading = watch(readFramedBody(request, megabyte))

    await send(1, 11_000)

    expect(reading.ended).toBeInstanceOf(BodyTooSlow)
  })
})
