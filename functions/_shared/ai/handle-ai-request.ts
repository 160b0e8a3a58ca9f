/** The AI endpoint without its environment: routes a request, and turns whatever happens into an answer. */
import { AppError, renderError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { answerPreflight, corsHeaders } from '../http/cors.ts'
import { requestId as requestIdOf } from '../http/request-headers.ts'
import { type Arrival, answerCall, type ReadRequest } from './answer-call.ts'
import { readChatRequest, readEmbeddingsRequest, readImagesRequest } from './read-request.ts'
import { identify, ledgerCaller, tellOfSignature, turnAway } from './who-calls.ts'
import type { AiWorld } from './world.ts'

const root = '/ai/v1'

const doors = new Map<string, ReadRequest>([
  [`${root}/chat/completions`, readChatRequest],
  [`${root}/embeddings`, readEmbeddingsRequest],
  [`${root}/images/generations`, readImagesRequest],
])

export async function handleAiRequest(request: Request, world: AiWorld): Promise<Response> {
  const requestId = requestIdOf(request.headers, world.newId)
  const facts = new Map(Object.entries({ ...corsHeaders, 'x-request-id': requestId }))
  const { pathname } = new URL(request.url)
  const line = { level: 'info', message: 'ai call', request_id: requestId, path: pathname }
  const response = await route(pathname, { request, requestId, facts, line }, world).catch((cause: unknown) => {
    const error = toAppError(cause)
    const level = error.status >= 500 ? 'error' : 'info'
    world.log({ ...line, level, http_status: error.status, error_code: error.code, ...causeOf(error) })
    return renderError(error, world.now())
  })
  for (const [name, value] of facts) response.headers.set(name, value)
  return response
}

async function route(pathname: string, arrival: Arrival, world: AiWorld): Promise<Response> {
  const { request } = arrival
  if (request.method === 'OPTIONS') return answerPreflight(request)
  const door = doors.get(pathname)
  if (door) {
    requireMethod(request, 'POST')
    return answerCall(arrival, door, world)
  }
  if (pathname === `${root}/models` || pathname.startsWith(`${root}/models/`)) {
    requireMethod(request, 'GET')
    return answerModels(request.headers, modelId(pathname), world)
  }
  throw new AppError('not_found')
}

function requireMethod({ method }: Request, allowed: string): void {
  if (method !== allowed) throw new AppError('method_not_allowed', { headers: { allow: `${allowed}, OPTIONS` } })
}

/** Ids contain slashes; clients send them as they are or as %2F. */
function modelId(pathname: string): string | undefined {
  const encoded = pathname.slice(`${root}/models/`.length)
  if (encoded === '') return undefined
  try {
    return decodeURIComponent(encoded)
  } catch {
    throw new AppError('model_not_found')
  }
}

/** The models that the caller may use, in OpenAI's shape. */
async function answerModels(headers: Headers, id: string | undefined, world: AiWorld): Promise<Response> {
  const caller = ledgerCaller(await identify(headers, world), headers, new Uint8Array())
  const list = await world.ledger.listModels(caller)
  if (!list.allowed && list.code === 'invalid_signature') tellOfSignature(caller, world)
  if (!list.allowed) throw await turnAway(list, caller, world)
  const data = list.models.map((model) => ({ ...model, object: 'model' }))
  if (id === undefined) return Response.json({ object: 'list', data })
  const model = data.find((candidate) => candidate.id === id)
  if (!model)
    throw new AppError('model_not_found', { message: `The model '${id}' does not exist or is not in your plan.` })
  return Response.json(model)
}
