/** Whether a key works, and what it may do: whose key it is is asked, with the key, before anything is kept. */
import { AppError, catalogue } from '../errors.ts'
import { connectExchange } from '../exchanges/connect.ts'
import { ExchangeFailure } from '../exchanges/failure.ts'
import { requiredFields } from '../exchanges/load-exchange.ts'
import { testConnection } from '../exchanges/test-connection.ts'
import type { Secrets } from '../open-credential.ts'
import type { Target } from './credential-database.ts'

/** A word that the owner sees as `status_reason` (null: the key works), and a sentence about it. */
export type KeyTest = { reason: string | null; message: string | null; permissions: string[] }

/** `gapMs`: see connectExchange. */
type World = { fetch: typeof fetch; now(): number; gapMs?: number | undefined }

export const testKey = (target: Target, secrets: Secrets, world: World): Promise<KeyTest> =>
  target.kind === 'exchange'
    ? testExchangeKey(target.provider, target.baseUrl, secrets, world)
    : testProviderKey(target.baseUrl, secrets.api_key, world)

/** Throws invalid_request_error, with the field, when the exchange's keys have another form. */
export async function requireFields(exchange: string, secrets: Secrets): Promise<void> {
  const needed: string[] = await requiredFields(exchange).catch((cause: unknown) => {
    if (!(cause instanceof ExchangeFailure)) throw cause
    throw new AppError('not_found', { message: 'Keys of this exchange cannot be used here.', param: 'exchange' })
  })
  for (const field of ['api_secret', 'passphrase'] as const) {
    const given = secrets[field] !== undefined
    if (needed.includes(field) === given) continue
    const message = given ? `${field}: keys of this exchange have none.` : `${field}: keys of this exchange have one.`
    throw new AppError('invalid_request_error', { message, param: field })
  }
}

/** Of an exchange: it is asked, with the key. Reason `can_withdraw`: the key works, and may do what no key here may. */
async function testExchangeKey(
  exchange: string,
  baseUrl: string | null,
  credentials: Secrets,
  { fetch, now, gapMs }: World,
): Promise<KeyTest> {
  const result = await testConnection(
    await connectExchange({ exchange, credentials, base_url: baseUrl }, { fetch, now, gapMs }),
  )
  if (!result.ok) return { reason: result.reason, message: result.message, permissions: [] }
  const { permissions, can_withdraw } = result
  if (can_withdraw)
    return { reason: 'can_withdraw', message: catalogue.key_can_withdraw.message, permissions: named(permissions) }
  const message =
    can_withdraw === null ? 'This exchange does not tell what a key may do. Make sure that it may not withdraw.' : null
  return { reason: null, message, permissions: named(permissions) }
}

/** As many as the table takes. */
const named = (permissions: string[]): string[] => permissions.slice(0, 20).map((name) => name.slice(0, 80))

const patienceMs = 10_000

const explanations = {
  wrong_key: 'The provider does not accept this key. Check that it is whole and not revoked.',
  rate_limited: 'The provider answers that there are too many requests with this key. Test it again in a minute.',
  provider_down: 'The provider did not answer as it should. The key is kept; test it again later.',
}

/** Of an AI provider: its list of models, which costs nothing, is asked for with the key. */
async function testProviderKey(baseUrl: string, key: string, world: World): Promise<KeyTest> {
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
