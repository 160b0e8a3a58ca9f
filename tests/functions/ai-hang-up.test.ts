import { afterAll, beforeAll, expect, test } from 'vitest'
import { createWorld, messages, startProvider } from './ai-world.ts'

let provider: Awaited<ReturnType<typeof startProvider>>
beforeAll(async () => {
  provider = await startProvider()
})
afterAll(() => provider.close())

const request = { model: 'echo', messages, stream: true }

test.each([0, 1, 2, 3, 5, 7, 8])(
  'a caller who hangs up after %i reads settles exactly once and pays for what came',
  async (reads) => {
    const { seen, chat, background } = createWorld(provider.url)
    const reader = (await chat(request)).body?.getReader()

    for (let i = 0; i < reads; i += 1) await reader?.read()
    await reader?.cancel()
    await Promise.all(background)

    expect(seen.outcomes).toHaveLength(1)
    if (reads === 0) expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 499, usage: null }])
    else expect(seen.outcomes[0]?.usage?.prompt_tokens).toBeGreaterThan(0)
  },
)

test('a caller who hangs up in the middle is charged for the prompt and the delivered bytes', async () => {
  const { seen, chat } = createWorld(provider.url)
  const gone = new AbortController()
  const answer = await chat(
    { ...request, model: 'echo+endless' },
    { headers: { authorization: 'Bearer good' }, signal: gone.signal },
  )
  const reader = answer.body?.getReader()

  let delivered = ''
  for (let i = 0; i < 5; i += 1) delivered += new TextDecoder().decode((await reader?.read())?.value)
  gone.abort()

  // "more" is a token. Chunks of the socket may bring several events at once.
  const completion_tokens = delivered.match(/"content":"more"/g)?.length
  expect(completion_tokens).toBeGreaterThan(0)
  const usage = expect.objectContaining({ prompt_tokens: 16, completion_tokens })
  expect(seen.outcomes).toMatchObject([{ result: 'cancelled', http_status: 499, usage_source: 'estimated', usage }])
})

test.each([true, false])('a caller who hangs up before the first byte pays nothing (stream: %s)', async (stream) => {
  const gone = new AbortController()
  const { seen, chat } = createWorld(provider.url, {
    fetch: (url, init) => {
      setTimeout(() => gone.abort(), 5)
      return fetch(url, init)
    },
  })

  await chat(
    { ...request, model: 'echo+hang', stream },
    { headers: { authorization: 'Bearer good' }, signal: gone.signal },
  )

  expect(seen.outcomes).toMatchObject([{ result: 'failed', http_status: 499, usage: null, usage_source: 'none' }])
})

test('the provider is aborted when the caller hangs up', async () => {
  let signal: AbortSignal | null | undefined
  const { chat } = createWorld(provider.url, {
    fetch: (url, init) => {
      signal = init.signal
      return fetch(url, init)
    },
  })
  const answer = await chat({ ...request, model: 'echo+endless' })

  await answer.body?.cancel()

  expect(signal?.aborted).toBe(true)
})

/** A provider that says `word` for ever and counts how often it was pulled. */
function endlessProvider() {
  const made = { chunks: 0 }
  const chunk = new TextEncoder().encode(
    `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: 'word' } }] })}\n\n`,
  )
  const pull = (controller: ReadableStreamDefaultController) => {
    made.chunks += 1
    controller.enqueue(chunk)
  }
  return { made, fetch: async () => new Response(new ReadableStream({ pull }, { highWaterMark: 0 })) }
}

test('a slow reader holds the provider back: nothing piles up', async () => {
  const { made, fetch } = endlessProvider()
  const reader = (await createWorld(provider.url, { fetch }).chat(request)).body?.getReader()

  for (let i = 0; i < 20; i += 1) await reader?.read()
  await new Promise((done) => setImmediate(done))

  expect(made.chunks).toBeLessThanOrEqual(22)
  await reader?.cancel()
})

test('a caller who stops reading does not keep a call open for ever', async () => {
  const { fetch } = endlessProvider()
  const world = createWorld(provider.url, { fetch }, 5_000, 50)
  const settled = new Promise<void>((done) => {
    const watch = setInterval(() => world.seen.outcomes.length > 0 && done(clearInterval(watch)), 5)
  })
  const reader = (await world.chat(request)).body?.getReader()

  await reader?.read()
  await settled

  expect(world.seen.outcomes).toMatchObject([{ result: 'failed', http_status: 504, usage: { completion_tokens: 1 } }])
})
