/** The request to the provider of one route. */
import { AppError } from '../errors.ts'
import { writeJson } from './estimate-tokens.ts'
import type { Endpoint, Route } from './ledger-contract.ts'
import type { OpenCall } from './open-call.ts'
import type { AiWorld } from './world.ts'

const paths: Record<Endpoint, string> = {
  'chat.completions': '/chat/completions',
  embeddings: '/embeddings',
  'images.generations': '/images/generations',
}

export async function providerRequest(
  route: Route,
  { request, requestId }: Pick<OpenCall, 'request' | 'requestId'>,
  world: AiWorld,
): Promise<{ url: string; init: RequestInit }> {
  const { base_url, api_key_secret } = route.provider
  const headers = new Headers({
    'content-type': 'application/json',
    accept: request.stream ? 'text/event-stream' : 'application/json',
    // Compression holds events back.
    'accept-encoding': 'identity',
    'x-request-id': requestId,
  })
  if (route.api_key !== undefined) {
    headers.set('authorization', `Bearer ${route.api_key}`)
  } else if (api_key_secret !== null) {
    const key = await world.providerKey(api_key_secret)
    if (!key) throw new AppError('provider_not_configured', { cause: `${api_key_secret} is not set` })
    headers.set('authorization', `Bearer ${key}`)
  }
  return {
    url: base_url.replace(/\/+$/, '') + paths[request.endpoint],
    // A redirect would carry the key and the prompt to an address that nobody entered in the table.
    init: { method: 'POST', headers, body: writeJson(request.bodyFor(route)), redirect: 'manual' },
  }
}
