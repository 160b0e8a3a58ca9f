/**
 * A provider for measurements, run by Deno: answers at once, or as late as the model's name says. `bench-20-10` answers after
 * 20 ms and sends the events of a stream 10 ms apart. The 50 events of a stream are 50 writes; usage and the end come with the last.
 */
import './end-with-parent.ts'
import process from 'node:process'

const events = 50
const encoder = new TextEncoder()
const head = { id: 'chatcmpl-bench', created: 1_780_000_000, model: 'bench' }
const usage = {
  prompt_tokens: 30,
  completion_tokens: events,
  total_tokens: 30 + events,
  prompt_tokens_details: { cached_tokens: 0 },
  completion_tokens_details: { reasoning_tokens: 0 },
}

const words = Array.from({ length: events }, (_, at) => `word${at} `)
const message = { role: 'assistant', content: words.join(''), refusal: null }
const whole = JSON.stringify({
  ...head,
  object: 'chat.completion',
  choices: [{ index: 0, message, logprobs: null, finish_reason: 'stop' }],
  usage,
})

const event = (data: unknown) => `data: ${JSON.stringify(data)}\n\n`
const chunk = (rest: object) => event({ ...head, object: 'chat.completion.chunk', ...rest })
const ending =
  chunk({ choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }], usage: null }) +
  chunk({ choices: [], usage }) +
  'data: [DONE]\n\n'
const chunks = words.map((content, at) => {
  const text = chunk({ choices: [{ index: 0, delta: { content }, logprobs: null, finish_reason: null }], usage: null })
  return encoder.encode(at === events - 1 ? text + ending : text)
})

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms))

/** By the clock, not by gaps after each other: a stream that was held up catches up and ends on time. */
function stream(gapMs: number): ReadableStream<Uint8Array> {
  const startedAt = performance.now()
  let sent = 0
  return new ReadableStream(
    {
      async pull(controller) {
        const earlyMs = startedAt + sent * gapMs - performance.now()
        if (gapMs > 0 && earlyMs > 0) await sleep(earlyMs)
        controller.enqueue(chunks[sent] ?? new Uint8Array())
        sent += 1
        if (sent === chunks.length) controller.close()
      },
    },
    { highWaterMark: 0 },
  )
}

const invalid = (message: string) =>
  Response.json({ error: { message, type: 'invalid_request_error' } }, { status: 400 })

Deno.serve({ hostname: '127.0.0.1', port: Number(process.argv[2]), onListen: () => {} }, async (request) => {
  if (request.method === 'GET') return new Response('ok')
  const body = await request.text()
  const model = /"model":"bench-(\d+)-(\d+)"/.exec(body)
  if (!model) return invalid('There is no such model.')
  if (model[1] !== '0') await sleep(Number(model[1]))
  if (!body.includes('"stream":true')) return new Response(whole, { headers: { 'content-type': 'application/json' } })
  // The same bytes for everybody: usage is always sent, as it is when somebody meters.
  return new Response(stream(Number(model[2])), { headers: { 'content-type': 'text/event-stream; charset=utf-8' } })
})
