/** The request to the provider, up to its headers. */
import { AppError } from '../errors.ts'
import type { Admitted } from './ledger-contract.ts'
import type { OpenCall } from './open-call.ts'
import type { ChatRequest } from './parse-chat-request.ts'
import { providerRefusal } from './provider-refusal.ts'
import type { AiWorld } from './world.ts'

/** The caller's body with our model, the limit that was held, and usage switched on. Unknown fields stay. */
export function upstreamBody(
  chat: ChatRequest,
  { upstream_model, max_output_tokens }: Admitted,
): Record<string, unknown> {
  const { max_tokens, max_completion_tokens, stream_options, ...rest } = chat
  // Exactly one limit: a provider that reads the other one would ignore what was held.
  const limit = typeof max_completion_tokens === 'number' ? 'max_completion_tokens' : 'max_tokens'
  const options = chat.stream ? { ...stream_options, include_usage: true } : stream_options
  return { ...rest, model: upstream_model, [limit]: max_output_tokens, ...(options && { stream_options: options }) }
}

/** The smaller of the limits that the caller gave, per choice. */
export function outputLimit({ max_tokens, max_completion_tokens }: ChatRequest): number | null {
  const given = [max_tokens, max_completion_tokens].filter((limit) => typeof limit === 'number')
  return given.length > 0 ? Math.min(...given) : null
}

/** An answer with status 2xx, or an AppError. One attempt for now; retries and fallbacks belong around `ask`. */
export async function callProvider(call: OpenCall, world: AiWorld): Promise<Response> {
  const { provider } = call.admission
  const request = providerRequest(call, world)
  // fetch does not tell when the connection stands, so the two timeouts run as one.
  const headersMs = provider.connect_timeout_ms + provider.first_byte_timeout_ms
  const ask = async (): Promise<Response> => {
    call.attempts += 1
    try {
      return await call.watch.within(headersMs, world.fetch(request.url, request.init))
    } catch (cause) {
      throw cause instanceof AppError ? cause : new AppError('upstream_error', { cause })
    }
  }
  const response = await ask()
  if (response.ok) return response
  throw await providerRefusal(response, (work) => call.watch.within(provider.idle_timeout_ms, work))
}

function providerRequest(
  { chat, admission, requestId, watch }: OpenCall,
  world: AiWorld,
): { url: string; init: RequestInit } {
  const { base_url, api_key_secret } = admission.provider
  const headers = new Headers({
    'content-type': 'application/json',
    accept: chat.stream ? 'text/event-stream' : 'application/json',
    // Compression holds events back.
    'accept-encoding': 'identity',
    'x-request-id': requestId,
  })
  if (api_key_secret !== null) {
    const key = world.providerKey(api_key_secret)
    if (!key) throw new AppError('provider_not_configured', { cause: `${api_key_secret} is not set` })
    headers.set('authorization', `Bearer ${key}`)
  }
  return {
    url: `${base_url.replace(/\/+$/, '')}/chat/completions`,
    // A redirect would carry the key and the prompt to an address that nobody entered in the table.
    init: {
      method: 'POST',
      headers,
      body: JSON.stringify(upstreamBody(chat, admission)),
      redirect: 'manual',
      signal: watch.signal,
    },
  }
}
