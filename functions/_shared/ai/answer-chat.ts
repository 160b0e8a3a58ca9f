/** One chat completion, top to bottom. */
import { type Caller, identifyCaller } from '../auth/identify-caller.ts'
import { AppError, renderError, toAppError } from '../errors.ts'
import { clientAddress } from '../http/client-address.ts'
import { limitHeaders } from '../http/limit-headers.ts'
import { BodyTooLarge, readBody } from '../http/read-body.ts'
import { answerJson } from './answer-json.ts'
import { callProvider, outputLimit } from './call-provider.ts'
import { nothingDelivered } from './describe-outcome.ts'
import { promptBytes as countPromptBytes, tokensAtMost } from './estimate-tokens.ts'
import { ledgerCaller } from './ledger-caller.ts'
import type { AdmissionRequest, Settlement } from './ledger-contract.ts'
import { openCall } from './open-call.ts'
import { type ChatRequest, parseChatRequest } from './parse-chat-request.ts'
import { refusal } from './refusal.ts'
import { streamAnswer } from './stream-answer.ts'
import type { AiWorld, LogLine } from './world.ts'

const bodyLimitBytes = 1_000_000

/** What the edge knows of a request. `facts` are headers for the answer, whichever it will be; `line` is the log's. */
export type Exchange = { request: Request; requestId: string; facts: Headers; line: LogLine }

export async function answerChat({ request, requestId, facts, line }: Exchange, world: AiWorld): Promise<Response> {
  const startedAt = world.now()
  const caller = await identifyCaller(request.headers, world)
  if (caller.kind === 'user') line.user_id = caller.userId
  const body = await readChatBody(request)
  const chat = parseChatRequest(body)
  line.model = chat.model
  const promptBytes = countPromptBytes(chat)

  const admission = await world.admit(admissionRequest({ request, requestId, caller, chat, body, promptBytes }))
  if (!admission.admitted) {
    note(facts, limitHeaders(admission.details?.limit ? [admission.details.limit] : [], startedAt))
    throw refusal(admission)
  }
  note(facts, limitHeaders(admission.limits ?? [], startedAt))
  note(facts, { 'x-model-used': chat.model, 'x-credits-remaining': admission.credits_remaining })

  const call = openCall({ chat, admission, requestId, startedAt, promptBytes, caller: request.signal, line }, world)
  const onSettled = (settlement: Settlement | undefined) =>
    note(facts, { 'x-credits-remaining': settlement?.credits_remaining })
  try {
    const upstream = await callProvider(call, world)
    note(facts, { 'x-attempts': call.attempts })
    return chat.stream ? await streamAnswer(upstream, call, world) : await answerJson(upstream, call, onSettled)
  } catch (cause) {
    const error = toAppError(cause)
    onSettled(await call.close(nothingDelivered(error)))
    note(facts, { 'x-attempts': call.attempts })
    return renderError(error, world.now())
  }
}

function note(facts: Headers, headers: Record<string, string | number | null | undefined>): void {
  for (const [name, value] of Object.entries(headers)) {
    if (value !== null && value !== undefined) facts.set(name, String(value))
  }
}

async function readChatBody(request: Request): Promise<Uint8Array> {
  try {
    return await readBody(request, bodyLimitBytes)
  } catch (cause) {
    if (cause instanceof BodyTooLarge) throw new AppError('request_too_large')
    throw new AppError('client_closed_request', { cause })
  }
}

type Asked = {
  request: Request
  requestId: string
  caller: Caller
  chat: ChatRequest
  body: Uint8Array
  promptBytes: number
}

function admissionRequest({ request, requestId, caller, chat, body, promptBytes }: Asked): AdmissionRequest {
  return {
    request_id: requestId,
    ...ledgerCaller(caller, request.headers),
    endpoint: 'chat.completions',
    model: chat.model,
    prompt_tokens_max: tokensAtMost(promptBytes),
    max_output_tokens: outputLimit(chat),
    choices: chat.n ?? 1,
    stream: chat.stream ?? false,
    request_bytes: body.byteLength,
    ip: clientAddress(request.headers),
    user_agent: request.headers.get('user-agent')?.slice(0, 256) ?? null,
  }
}
