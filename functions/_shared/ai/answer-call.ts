/** One AI call, top to bottom: chat completions, embeddings and images take the same way. */
import type { Caller } from '../auth/identify-caller.ts'
import { AppError, renderError, toAppError } from '../errors.ts'
import { isUuid } from '../forms.ts'
import { sha256Hex } from '../sha256.ts'
import { answerJson, openJson } from './answer-json.ts'
import { callProvider } from './call-provider.ts'
import type { AdmissionRequest, Settlement } from './ledger.ts'
import { nothingDelivered, type OpenCall, openCall } from './open-call.ts'
import type { AiRequest, UsageWish } from './read-request.ts'
import { receiveBody } from './receive-body.ts'
import { openStream, streamAnswer } from './stream-answer.ts'
import { limitHeaders, replayed } from './tell-decision.ts'
import {
  countUnreadable,
  endedUnseen,
  identify,
  ledgerCaller,
  noteKey,
  requireReadable,
  tellOfSignature,
  turnAway,
} from './who-calls.ts'
import type { AiWorld, LogLine } from './world.ts'

/** Headers for the answer, whichever it will be, by their names in lower case. */
type Facts = Map<string, string>
/** A request, and what the edge knows of it; `line` is the log's. */
export type Arrival = { request: Request; requestId: string; facts: Facts; line: LogLine }
/** The door of an endpoint. */
export type ReadRequest = (body: Uint8Array) => Promise<AiRequest>

type Asking = {
  arrival: Arrival
  caller: Caller
  request: AiRequest
  body: Uint8Array<ArrayBuffer>
  startedAt: number
}

export async function answerCall(arrival: Arrival, read: ReadRequest, world: AiWorld): Promise<Response> {
  const { request: http, line } = arrival
  const startedAt = world.now()
  // A worker's first call has its connection and its snapshot while the token is checked.
  world.ledger.prepare()
  const caller = await identify(http.headers, world)
  if (caller.kind === 'user') line.user_id = caller.userId
  requireReadable(caller, world)
  let leave: (isPaid: boolean) => void = () => {}
  let [isRead, isPaid] = [false, false]
  try {
    const body = await receiveBody(http, caller, world)
    leave = body.leave
    const request = await read(body.bytes)
    isRead = true
    // Of two models in a body the last one counts.
    if (body.model !== undefined && body.model !== request.model) throw new AppError('request_too_large')
    const answer = await answerBody({ arrival, caller, request, body: body.bytes, startedAt }, world)
    isPaid = true
    return answer
  } catch (cause) {
    const error = await endedUnseen(toAppError(cause), caller, http.headers, world)
    // A refusal that names no field is of a body that is no JSON, or came too slowly.
    if (!isRead && error.code === 'invalid_request_error' && error.details.param === undefined)
      countUnreadable(caller, error.details.cause, world)
    throw error
  } finally {
    leave(isPaid)
  }
}

async function answerBody(asking: Asking, world: AiWorld): Promise<Response> {
  const { arrival, request, startedAt } = asking
  const { request: http, requestId, facts, line } = arrival
  line.model = request.model

  const asked = await admissionRequest(asking)
  const admission = await world.ledger.admit(asked)
  note(facts, { 'x-attempts': 0 })
  if (!admission.admitted) {
    const limit = admission.details?.limit
    note(facts, limitHeaders(limit ? [limit] : [], startedAt))
    note(facts, { 'x-credits-remaining': limit?.meter === 'credits' ? limit.remaining : undefined })
    if (admission.code === 'idempotency_replay') return replayed(admission)
    if (admission.code === 'invalid_signature') tellOfSignature(asked, world)
    throw await turnAway(admission, asked, world)
  }
  noteKey(asked, world)
  note(facts, limitHeaders(admission.limits ?? [], startedAt))
  note(facts, { 'x-credits-remaining': admission.credits_remaining })

  const keepsAnswer = asked.idempotency_key !== null
  const call = openCall(
    { request, admission, requestId, keepsAnswer, startedAt, callerSignal: http.signal, line },
    world,
  )
  try {
    return await answer(call, http.headers, facts, world)
  } catch (cause) {
    const error = toAppError(cause)
    noteSettlement(facts, await call.close(nothingDelivered(error)))
    return renderError(error, world.now())
  } finally {
    request.forget()
    note(facts, { 'x-attempts': call.attempts, 'x-model-used': call.route?.model })
  }
}

/** OpenRouter ends every stream with the usage, so its own clients, which both name it, do not ask; one of them takes no null. */
function usageWish({ wantsUsage }: AiRequest, headers: Headers): UsageWish {
  const isOpenRouters = wantsUsage !== 'no' && /openrouter/i.test(headers.get('user-agent') ?? '')
  return isOpenRouters ? 'in the last chunk' : (wantsUsage ?? 'no')
}

async function answer(call: OpenCall, headers: Headers, facts: Facts, world: AiWorld): Promise<Response> {
  const { stream, endpoint } = call.request
  if (stream) {
    const wish = usageWish(call.request, headers)
    const begun = await callProvider(call, (body, key) => openStream(body, wish, key, world), world)
    return new Response(streamAnswer(begun, call, world), { headers: streamHeaders })
  }
  const begun = await callProvider(call, (body, key) => openJson(body, endpoint, key), world)
  const { body, settlement } = await answerJson(begun, call)
  noteSettlement(facts, settlement)
  return new Response(body, { headers: { 'content-type': 'application/json' } })
}

const streamHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  'x-accel-buffering': 'no',
}

function note(facts: Facts, headers: Record<string, string | number | null | undefined>): void {
  for (const [name, value] of Object.entries(headers)) {
    if (value !== null && value !== undefined) facts.set(name, String(value))
  }
}

const noteSettlement = (facts: Facts, settlement: Settlement | undefined) =>
  note(facts, {
    'x-credits-remaining': settlement?.credits_remaining,
    // A header, because the body goes out as it came.
    'x-cost-micros': settlement?.cost_micros,
  })

/** Asks for the caller's own key of the provider, by its id in the credential vault. */
function readCredential(headers: Headers): string | null {
  const id = headers.get('x-provider-credential')
  if (id !== null && !isUuid(id))
    throw new AppError('invalid_request_error', {
      message: 'The header x-provider-credential must be the id of a credential.',
      param: 'credential',
    })
  return id
}

async function admissionRequest({ arrival, caller, request, body }: Asking): Promise<AdmissionRequest> {
  const { headers } = arrival.request
  return {
    request_id: arrival.requestId,
    ...ledgerCaller(caller, headers, body),
    endpoint: request.endpoint,
    model: request.model,
    contents: request.contents,
    asks: request.asks,
    fields: request.fields,
    max_output_tokens: request.maxOutputTokens,
    choices: request.choices,
    images: request.images,
    stream: request.stream,
    request_bytes: body.byteLength,
    user_agent: headers.get('user-agent')?.slice(0, 256) ?? null,
    ...(await readIdempotency(headers, body)),
    credential_id: readCredential(headers),
  }
}

/** The caller's promise that two requests are one: a key, and what tells whether the bodies are the same. */
type Claim = { idempotency_key: string | null; body_hash: string | null }

const idempotencyKey = /^[\x20-\x7e]{1,255}$/

async function readIdempotency(headers: Headers, body: Uint8Array<ArrayBuffer>): Promise<Claim> {
  const key = headers.get('idempotency-key')
  if (key === null) return { idempotency_key: null, body_hash: null }
  if (!idempotencyKey.test(key)) {
    const message = 'idempotency-key: is not 1 to 255 printable characters'
    throw new AppError('invalid_request_error', { message, param: 'idempotency-key' })
  }
  return { idempotency_key: key, body_hash: await sha256Hex(body) }
}
