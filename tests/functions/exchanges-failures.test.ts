/** What a user is told when an exchange refuses, and that nothing of their key is in it. */
import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { ExchangeFailure } from '../../functions/_shared/exchanges/failure.ts'
import { requiredFields } from '../../functions/_shared/exchanges/load-exchange.ts'
import { readHoldings } from '../../functions/_shared/exchanges/read-holdings.ts'
import { testConnection } from '../../functions/_shared/exchanges/test-connection.ts'
import type { Secrets } from '../../functions/_shared/open-credential.ts'
import { createWorld, type Name, names } from './exchanges-world.ts'

type World = ReturnType<typeof createWorld>
type Case = { of: Name[]; reason: string; spoil(world: World, exchange: Name, key: Secrets): Promise<Secrets> }

const kept = (act: (world: World, exchange: Name, key: Secrets) => Promise<unknown>): Case['spoil'] => {
  return async (world, exchange, key) => {
    await act(world, exchange, key)
    return key
  }
}
const all = [...names]

const cases: Record<string, Case> = {
  'a key that does not exist': {
    of: all,
    reason: 'wrong_key',
    spoil: kept((world, exchange, { api_key }) => world.changeKey(exchange, api_key, { revoked: true })),
  },
  "another key's secret": {
    of: all,
    reason: 'wrong_key',
    spoil: async (world, exchange, { api_key }) => ({ ...(await world.makeKey(exchange)), api_key }),
  },
  'a secret in no form of a secret': {
    of: all,
    reason: 'wrong_key',
    spoil: async (_world, _exchange, { api_key }) => ({ api_key, api_secret: 'not-a-secret-at-all-!%&' }),
  },
  'a clock that is ahead': {
    of: ['binance', 'coinbase'],
    reason: 'clock_skew',
    spoil: kept((world, exchange) => world.setMood(exchange, { skew_ms: -90_000 })),
  },
  'a clock that is behind': {
    of: ['binance', 'coinbase'],
    reason: 'clock_skew',
    spoil: kept((world, exchange) => world.setMood(exchange, { skew_ms: 300_000 })),
  },
  'an address that the key does not allow': {
    of: ['binance'],
    reason: 'ip_not_allowed',
    spoil: kept((world, exchange, { api_key }) => world.changeKey(exchange, api_key, { allowed_ips: ['192.0.2.1'] })),
  },
  'a key that may not read': {
    of: ['coinbase', 'kraken'],
    reason: 'missing_permission',
    spoil: kept((world, exchange, { api_key }) => world.changeKey(exchange, api_key, { permissions: ['trade'] })),
  },
  'too many calls': {
    of: all,
    reason: 'rate_limited',
    spoil: kept((world, exchange) => world.setMood(exchange, { rate_limited: true })),
  },
  'a ban after too many calls': {
    of: all,
    reason: 'rate_limited',
    spoil: kept((world, exchange, { api_key }) => world.setMood(exchange, { api_key, banned: true })),
  },
  'an exchange that is down': {
    of: all,
    reason: 'exchange_down',
    spoil: kept((world, exchange) => world.setMood(exchange, { down: true })),
  },
  'an exchange that is too slow': {
    of: all,
    reason: 'exchange_down',
    spoil: kept((world, exchange) => world.setMood(exchange, { slow_ms: 60_000 })),
  },
}
const rows = Object.entries(cases).flatMap(([name, { of, reason, spoil }]) =>
  of.map((exchange) => ({ name, exchange, reason, spoil })),
)

test.each(rows)('$exchange: $name is told as $reason, and no key is in it', async ({ exchange, reason, spoil }) => {
  const world = createWorld()
  const good = await world.makeKey(exchange)
  const key = await spoil(world, exchange, good)
  const connection = await world.connect(exchange, key, reason === 'exchange_down' ? { timeoutMs: 300 } : {})

  const told = await testConnection(connection)
  const thrown: unknown = await readHoldings(connection).catch((error: unknown) => error)

  expect(told).toMatchObject({ ok: false, reason, message: expect.stringMatching(/^[A-Z].*\.$/) })
  expect(thrown).toBeInstanceOf(ExchangeFailure)
  expectNoSecret([told, thrown], [good, key])
})

/** Everything that a log could print of an error: its fields, the hidden ones, too, its stack and its causes. */
function expectNoSecret(values: unknown[], keys: Secrets[]) {
  const printed = inspect(values, { depth: Number.POSITIVE_INFINITY, showHidden: true, maxStringLength: null })
  for (const { api_key, api_secret = '' } of keys) {
    expect(printed).not.toContain(api_key)
    for (const line of api_secret.split('\n').filter((text) => text.length > 12)) expect(printed).not.toContain(line)
  }
  expect(printed).not.toMatch(/signature=|https?:\/\/|API-Sign|Bearer|eyJ/)
}

test('an exchange that cannot be reached is down, and its address is not told', async () => {
  const world = createWorld()
  const key = await world.makeKey('binance')
  const refused = new TypeError('fetch failed', { cause: new Error('connect ECONNREFUSED 203.0.113.9:443') })
  const connection = await world.connect('binance', key, { fetch: () => Promise.reject(refused) })

  const told = await testConnection(connection)

  expect(told).toMatchObject({ ok: false, reason: 'exchange_down' })
  expect(inspect(told)).not.toContain('203.0.113.9')
})

test('a key that was used out of turn is no wrong key', async () => {
  const world = createWorld()
  const key = await world.makeKey('kraken')
  // Another program of the user counts in microseconds, ours in milliseconds.
  await world.changeKey('kraken', key.api_key, { last_nonce: String(Date.now() * 1000) })

  const told = await testConnection(await world.connect('kraken', key))

  expect(told).toMatchObject({ ok: false, reason: 'clock_skew' })
})

test('when an exchange says how long to wait, we know it', async () => {
  const world = createWorld()
  const connection = await world.connect('binance', await world.makeKey('binance'))
  await world.setMood('binance', { rate_limited: true })

  const thrown: unknown = await readHoldings(connection).catch((error: unknown) => error)

  expect(thrown).toMatchObject({ reason: 'rate_limited', retryAfterS: 7 })
})

test('an answer in another form is a failure that names what is wrong', async () => {
  const world = createWorld()
  const fetch = async () => Response.json({ error: [], result: { permissions: 'all' } })
  const connection = await world.connect('kraken', await world.makeKey('kraken'), { fetch })

  const told = await testConnection(connection)

  expect(told).toMatchObject({ ok: false, reason: 'unknown', detail: expect.stringContaining('result.permissions') })
})

test('which fields a key has comes from ccxt, for exchanges without code of ours, too', async () => {
  expect(await requiredFields('binance')).toEqual(['api_key', 'api_secret'])
  expect(await requiredFields('kucoin')).toEqual(['api_key', 'api_secret', 'passphrase'])
  await expect(requiredFields('hyperliquid')).rejects.toThrow(ExchangeFailure)
  await expect(requiredFields('nosuch')).rejects.toThrow(ExchangeFailure)
  await expect(requiredFields('../base/Exchange')).rejects.toThrow(ExchangeFailure)
})
