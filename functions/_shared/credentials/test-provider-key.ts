/** Whether a key of an AI provider works: its list of models, which costs nothing, is asked for with it. */
import type { KeyTest } from './world.ts'

const patienceMs = 10_000

type World = { fetch(url: string, init: RequestInit): Promise<Response> }

const explanations = {
  wrong_key: 'The provider does not accept this key. Check that it is whole and not revoked.',
  rate_limited: 'The provider answers that there are too many requests with this key. Test it again in a minute.',
  provider_down: 'The provider did not answer as it should. The key is kept; test it again later.',
}

export async function testProviderKey(baseUrl: string, key: string, world: World): Promise<KeyTest> {
  const reason = await ask(baseUrl, key, world)
  return { reason, message: reason === null ? null : explanations[reason], permissions: [] }
}

/** An answer that says nothing about the key counts as the provider's trouble: nobody's key is called wrong on a guess. */
async function ask(baseUrl: string, key: string, world: World): Promise<keyof typeof explanations | null> {
  try {
    const response = await world.fetch(`${baseUrl.replace(/\/+$/, '')}/models`, {
      headers: { authorization: `Bearer ${key}`, accept: 'application/json' },
      // A redirect would carry the key to an address that nobody entered in the table.
      redirect: 'manual',
      signal: AbortSignal.timeout(patienceMs),
    })
    await response.body?.cancel()
    if (response.ok) return null
    if (response.status === 401 || response.status === 403) return 'wrong_key'
    return response.status === 429 ? 'rate_limited' : 'provider_down'
  } catch {
    // Not even its name is kept: an error of fetch may repeat what was sent.
    return 'provider_down'
  }
}
