/** Whether a key of an exchange works, and what it may do: the exchange is asked, with the key, before anything is kept. */
import { AppError, catalogue } from '../errors.ts'
import { connectExchange } from '../exchanges/connect.ts'
import { ExchangeFailure } from '../exchanges/failure.ts'
import { requiredFields } from '../exchanges/load-exchange.ts'
import { testConnection } from '../exchanges/test-connection.ts'
import type { KeyTest, Secrets } from './world.ts'

type World = { fetch: typeof fetch; now(): number }

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

/** Reason `can_withdraw`: the key works, and may do what no key here may. */
export async function testExchangeKey(
  exchange: string,
  baseUrl: string | null,
  { api_key, api_secret = '', passphrase }: Secrets,
  { fetch, now }: World,
): Promise<KeyTest> {
  const credentials = { api_key, api_secret, passphrase }
  const result = await testConnection(
    await connectExchange({ exchange, credentials, base_url: baseUrl }, { fetch, now }),
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
