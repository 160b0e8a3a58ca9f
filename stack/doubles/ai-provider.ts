// A local stand-in for an OpenAI-compatible provider, used when no real provider key is set. It keeps everything in
// memory, answers by echo, and misbehaves on request: `behaviours` lists how.
import { randomUUID } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { behaviours, errorResponse, parseModel, refusal, serverError } from './ai-provider/behaviours.ts'
import { chatAnswer, chatCompletion, chatEvents, chatRequest } from './ai-provider/chat-answer.ts'
import { embeddings, embeddingsRequest, images, imagesRequest } from './ai-provider/embeddings-and-images.ts'
import {
  type Call,
  type Exchange,
  openExchange,
  type Socket,
  sendJson,
  sendStream,
  untilHungUp,
} from './ai-provider/send.ts'

/** `serve({ fetch })` of @hono/node-server passes this; without it, `reset` errors the stream. */
type ProviderBindings = { incoming?: { socket: Socket } }
type ProviderContext = Context<{ Bindings: ProviderBindings }>
type State = { calls: Call[]; failedOnce: Set<string> }

const callsKept = 10_000
const labels = z.object({
  model: z.string().nullable().catch(null),
  user: z.string().nullable().catch(null),
  metadata: z.object({ tag: z.string() }).nullable().catch(null),
})
const labelsOf = (body: unknown) => labels.parse(typeof body === 'object' && body !== null ? body : {})

function redact(headers: Headers): Record<string, string> {
  const secret = ['authorization', 'api-key', 'x-api-key']
  return Object.fromEntries(
    [...headers].map(([name, value]) => [name, secret.includes(name) ? `…${value.slice(-4)}` : value]),
  )
}

async function recordCall(c: ProviderContext, { calls }: State): Promise<Call> {
  const body: unknown = await c.req.json().catch(() => undefined)
  const call = {
    id: randomUUID(),
    model: labelsOf(body).model,
    at: new Date().toISOString(),
    headers: redact(c.req.raw.headers),
    body,
    aborted: false,
    finished: false,
    chunks_sent: 0,
  }
  calls.push(call)
  if (calls.length > callsKept) calls.shift()
  return call
}

function isFirstAttempt({ headers, body }: Call, { failedOnce }: State): boolean {
  const attempt = headers['x-request-id'] ?? labelsOf(body).user ?? JSON.stringify(body)
  const first = !failedOnce.has(attempt)
  failedOnce.add(attempt)
  return first
}

const invalid = (message: string, param: string | null = null) =>
  errorResponse({ status: 400, message, type: 'invalid_request_error', param, code: null })

const unknown = (message: string, code: string) =>
  errorResponse({ status: 404, message, type: 'invalid_request_error', param: null, code })

/** Records the call, refuses or hangs if the model name asks for it, else answers. */
function endpoint<T extends { model: string }>(
  state: State,
  schema: z.ZodType<T>,
  answer: (request: T, exchange: Exchange) => Response | Promise<Response>,
) {
  return async (c: ProviderContext): Promise<Response> => {
    const call = await recordCall(c, state)
    const refuse = (response: Response) => {
      call.finished = true
      return response
    }
    if (call.body === undefined) return refuse(invalid('We could not parse the JSON body of your request.'))
    const { data: request, error } = schema.safeParse(call.body)
    if (error) return refuse(invalid(error.issues[0]?.message ?? '', error.issues[0]?.path.join('.')))
    const wants = parseModel(request.model)
    if (!wants) return refuse(unknown(`The model '${request.model}' does not exist.`, 'model_not_found'))

    const refused = refusal(wants) ?? (wants.has('flaky') && isFirstAttempt(call, state) && errorResponse(serverError))
    if (refused) return refuse(refused)
    const exchange = openExchange(call, wants, c.req.raw.signal, c.env.incoming?.socket)
    try {
      if (wants.has('hang')) await untilHungUp(exchange)
      return await answer(request, exchange)
    } catch (error) {
      if (exchange.signal.aborted) return new Response(null, { status: 499 }) // Nobody reads it.
      throw error
    }
  }
}

export function createAiProvider(): {
  fetch(request: Request, bindings?: ProviderBindings): Response | Promise<Response>
} {
  const state: State = { calls: [], failedOnce: new Set() }
  const app = new Hono<{ Bindings: ProviderBindings }>()

  const chat = endpoint(state, chatRequest, (request, exchange) => {
    const answer = chatAnswer(request, exchange.wants, exchange.call.id, Date.now())
    if (!request.stream) return sendJson(chatCompletion(answer, exchange.wants), exchange)
    return sendStream(chatEvents(answer, request.stream_options?.include_usage ?? false, exchange.wants), exchange)
  })
  const embed = endpoint(state, embeddingsRequest, (request, exchange) =>
    sendJson(embeddings(request, exchange.wants), exchange),
  )
  const draw = endpoint(state, imagesRequest, (request, exchange) =>
    sendJson(images(request, exchange.wants, Date.now()), exchange),
  )
  app.post('/v1/chat/completions', chat)
  app.post('/v1/embeddings', embed)
  app.post('/v1/images/generations', draw)

  app.get('/v1/models', (c) => {
    const ids = ['echo', ...Object.keys(behaviours).map((name) => `echo+${name}`)]
    return c.json({
      object: 'list',
      data: ids.map((id) => ({ id, object: 'model', created: 0, owned_by: 'palisade' })),
    })
  })

  app.get('/calls', (c) => {
    const tag = c.req.query('tag')
    const matches = ({ body }: Call) => [labelsOf(body).user, labelsOf(body).metadata?.tag].includes(tag)
    return c.json({ calls: tag === undefined ? state.calls : state.calls.filter(matches) })
  })
  app.delete('/calls', (c) => {
    state.calls.length = 0
    state.failedOnce.clear()
    return c.body(null, 204)
  })

  app.notFound((c) => unknown(`Invalid URL (${c.req.method} ${c.req.path})`, 'unknown_url'))
  return { fetch: (request, bindings = {}) => app.fetch(request, bindings) }
}
