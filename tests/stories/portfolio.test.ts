/** A portfolio as its owner meets it: connect an exchange, see what is held and made, and hear of it when it changes. */
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { standInExchanges } from '../support/exchanges.ts'
import { closeRealtimeClients, listenTo, realtimeClient, subscribed } from '../support/realtime.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

type Exchange = 'binance' | 'coinbase' | 'kraken'

const answered = z.looseObject({
  id: z.string().optional(),
  error: z.looseObject({ code: z.string(), message: z.string(), param: z.string().nullable() }).optional(),
})
const synced = z.object({
  syncs: z.array(z.looseObject({ status: z.string(), new_trades: z.number(), reason: z.string().nullable() })),
  credentials: z.array(z.looseObject({ status: z.string(), error: z.string().nullable() })),
})

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 4, onnotice: () => {} })
})
afterEach(closeRealtimeClients)
afterAll(() => sql.end())

async function post(user: TestUser, path: string, body: object = {}) {
  const response = await fetch(`${target().functionsUrl}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${user.accessToken}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return { status: response.status, body: answered.parse(await response.json()) }
}

const add = (user: TestUser, exchange: Exchange, key: object) =>
  post(user, '/credentials', { exchange, name: `My ${exchange}`, ...key })

/** Keeps the stack's own job, which runs every minute, away from a credential, unless the test asks. */
const restJob = (user: TestUser) =>
  sql`update private.portfolio_syncs set next_sync_at = now() + interval '1 hour', last_synced_at = now() - interval '2 minutes'
    where user_id = ${user.id} and lease_id is null`

/** A user with a key, of which nothing is synced yet: the job has been there at most once, before the trades. */
async function connected(exchange: Exchange, settings: object = {}) {
  const user = await newUser()
  const key = await standInExchanges().makeKey(exchange, settings)
  const { status, body } = await add(user, exchange, key)
  expect({ status, body }).toMatchObject({ status: 201, body: { status: 'active', status_reason: null } })
  await expect.poll(async () => (await restJob(user)).count).toBe(1)
  return { user, key, id: body.id ?? '' }
}

async function sync(user: TestUser) {
  await restJob(user)
  const { status, body } = await post(user, '/portfolio/sync')
  expect(status, JSON.stringify(body)).toBe(200)
  return synced.parse(body)
}

const at = (minute: number) => ({ at_ms: Date.UTC(2025, 0, 2, 0, minute) })
const portfolio = async (user: TestUser) => {
  const { data } = await user.client.rpc('get_my_portfolio').throwOnError()
  return Object.fromEntries(data.map((row) => [row.asset, row]))
}

describe.runIf(target().own)('a key of an exchange', () => {
  test('is tested before it is active, and its permissions are shown', async () => {
    for (const exchange of ['binance', 'coinbase', 'kraken'] as const) {
      const { user, key } = await connected(exchange)
      const { data } = await user.client.from('credentials').select('kind, provider, status, last_four, permissions')
      expect(data).toEqual([
        {
          ...{ kind: 'exchange', provider: exchange, status: 'active', last_four: key.api_key.slice(-4) },
          permissions: expect.arrayContaining([expect.stringMatching(/read|view|query/i)]),
        },
      ])
    }
  })

  test('that may withdraw is refused with a reason, and kept nowhere, not even in the place of a good one', async () => {
    for (const exchange of ['binance', 'coinbase', 'kraken'] as const) {
      const { user, key, id } = await connected(exchange)
      const greedy = await standInExchanges().makeKey(exchange, { permissions: ['read', 'withdraw'] })
      const refused = { status: 422, body: { error: { code: 'key_can_withdraw' } } }

      expect(await add(user, exchange, greedy)).toMatchObject(refused)
      expect(await post(user, `/credentials/${id}/rotate`, greedy)).toMatchObject(refused)

      const { data } = await user.client.from('credentials').select('id, last_four, status')
      expect(data).toEqual([{ id, last_four: key.api_key.slice(-4), status: 'active' }])
      // One that may do so later fails when it is tested again.
      await standInExchanges().changeKey(exchange, key.api_key, { permissions: ['read', 'withdraw'] })
      await sql`update public.credentials set last_tested_at = null where id = ${id}`
      expect(await post(user, `/credentials/${id}/test`)).toMatchObject({
        body: { status: 'failed', status_reason: 'can_withdraw', message: expect.stringContaining('may withdraw') },
      })
    }
  })

  test('that its exchange does not know leaves nothing behind, and a good one in its place stays', async () => {
    for (const exchange of ['binance', 'coinbase', 'kraken'] as const) {
      const { user, key, id } = await connected(exchange)
      const gone = await standInExchanges().makeKey(exchange)
      await standInExchanges().changeKey(exchange, gone.api_key, { revoked: true })
      const refused = { status: 422, body: { error: { code: 'key_not_accepted' } } }

      expect(await add(user, exchange, gone)).toMatchObject(refused)
      expect(await post(user, `/credentials/${id}/rotate`, gone)).toMatchObject(refused)

      const { data } = await user.client.from('credentials').select('id, last_four, status')
      expect(data).toEqual([{ id, last_four: key.api_key.slice(-4), status: 'active' }])
      const secrets = await sql`
        select distinct s.credential_id from private.credential_secrets s join public.credentials c on c.id = s.credential_id
        where c.user_id = ${user.id}`
      expect(secrets).toEqual([{ credential_id: id }])
    }
  })

  test('with the secret of another is refused in words that its owner understands, and repeats neither', async () => {
    const user = await newUser()
    const key = await standInExchanges().makeKey('kraken')
    const api_secret = Buffer.alloc(64, 1).toString('base64')

    const refused = await add(user, 'kraken', { ...key, api_secret })

    expect(refused).toMatchObject({ status: 422, body: { error: { message: expect.stringContaining('secret') } } })
    expect(JSON.stringify(refused)).not.toContain(key.api_key)
    expect(JSON.stringify(refused)).not.toContain(api_secret)
    expect((await user.client.from('credentials').select('id')).data).toEqual([])
  })

  test('that does not work for now is kept with a reason that its owner understands', async () => {
    const user = await newUser()
    const exchanges = standInExchanges()
    const elsewhere = await exchanges.makeKey('binance', { allowed_ips: ['203.0.113.9'] })
    const early = await exchanges.makeKey('binance')
    await exchanges.setMood('binance', early.api_key, { skew_ms: 3_600_000 })
    const down = await exchanges.makeKey('coinbase')
    await exchanges.setMood('coinbase', down.api_key, { down: true })

    for (const [exchange, key, reason, words] of [
      ['binance', elsewhere, 'ip_not_allowed', 'addresses'],
      ['binance', early, 'clock_skew', 'too early'],
      ['coinbase', down, 'exchange_down', 'does not answer'],
    ] as const)
      expect(await add(user, exchange, key), reason).toMatchObject({
        status: 201,
        body: { status: 'failed', status_reason: reason, message: expect.stringContaining(words) },
      })
  })

  test('of somebody else is as if it were not there, and one of a disabled exchange is asked nothing', async () => {
    const { user, key, id } = await connected('coinbase')
    const stranger = await newUser()
    const missing = { status: 404, body: { error: { code: 'not_found' } } }

    for (const body of [{ api_key: 'x' }, key]) {
      const [theirs, nobodys] = [id, crypto.randomUUID()].map((one) =>
        post(stranger, `/credentials/${one}/rotate`, body),
      )
      expect(await theirs).toMatchObject(missing)
      expect((await theirs)?.body.error?.message).toBe((await nobodys)?.body.error?.message)
    }

    await sql`update private.exchanges set enabled = false where id = 'coinbase'`
    try {
      await sql`update public.credentials set last_tested_at = null where id = ${id}`
      expect(await post(user, `/credentials/${id}/test`)).toMatchObject(missing)
      expect(await post(user, `/credentials/${id}/rotate`, key)).toMatchObject(missing)
    } finally {
      await sql`update private.exchanges set enabled = true where id = 'coinbase'`
    }
  })

  test('has the fields that its exchange has', async () => {
    const user = await newUser()
    const { api_key, api_secret } = await standInExchanges().makeKey('kraken')

    for (const [body, param] of [
      [{ exchange: 'kraken', name: 'Mine', api_key }, 'api_secret'],
      [{ exchange: 'kraken', name: 'Mine', api_key, api_secret, passphrase: 'x' }, 'passphrase'],
      [{ exchange: 'kraken', provider: 'demo', name: 'Mine', api_key, api_secret }, 'exchange'],
      [{ exchange: 'nobody', name: 'Mine', api_key, api_secret }, 'exchange'],
    ] as const)
      expect(await post(user, '/credentials', body)).toMatchObject({ body: { error: { param } } })
    expect((await user.client.from('credentials').select('id')).data).toEqual([])
  })
})

describe.runIf(target().own)('a sync', () => {
  test('brings holdings, each trade once, and the profit that a hand computes', async () => {
    const { user, key } = await connected('kraken', { balances: { BTC: '0.5', USD: '1000' } })
    const exchanges = standInExchanges()
    await exchanges.setPrices({ 'BTC/USD': '150' })
    await exchanges.addTrades('kraken', key.api_key, [
      { symbol: 'BTC/USD', side: 'buy', amount: '2', price: '100', fee: '1', fee_asset: 'USD', ...at(1) },
      { symbol: 'BTC/USD', side: 'buy', amount: '1', price: '130', ...at(2) },
    ])

    await sync(user)
    // Whatever is not settled for ten seconds is read by a later sync: this one was made right after what the first one read.
    const [read] =
      await sql`select (cursor ->> 'from_ms')::bigint as until from private.portfolio_syncs where user_id = ${user.id}`
    await exchanges.addTrades('kraken', key.api_key, [
      {
        ...{ symbol: 'BTC/USD', side: 'sell', amount: '2.5', price: '140', fee: '2.5', fee_asset: 'USD' },
        at_ms: Number(read?.until) + 1,
      },
    ])
    await expect
      .poll(async () => {
        await sync(user)
        return (await user.client.from('trades').select('side')).data?.length
      })
      .toBe(3)
    const again = await sync(user)

    expect(again.syncs).toMatchObject([{ status: 'synced', new_trades: 0 }])
    expect((await user.client.from('trades').select('side, amount').order('executed_at')).data).toMatchObject([
      { side: 'buy', amount: 2 },
      { side: 'buy', amount: 1 },
      { side: 'sell', amount: 2.5 },
    ])
    // Sold: 2 that cost 201 and half of 130, for 350 less 2.5. Left: 0.5 that cost 65 and are worth 75.
    expect(await portfolio(user)).toMatchObject({
      BTC: { amount: 0.5, value: 75, cost: 65, unrealised: 10, realised: 81.5 },
      USD: { amount: 1000, value: 1000 },
    })
    const { data } = await user.client
      .rpc('get_my_portfolio_series', {
        from: new Date(Date.now() - 3_600_000).toISOString(),
        to: new Date(Date.now() + 60_000).toISOString(),
        points: 10,
      })
      .throwOnError()
    expect(data.at(-1)).toMatchObject({ value: 1075, quote_currency: 'USD' })
  })

  test('of Binance counts its dollars in USDT, follows every page, and reads each market from where it was', async () => {
    const { user, key } = await connected('binance', { balances: { BTC: '1', USDT: '500' } })
    const exchanges = standInExchanges()
    await exchanges.setPrices({ 'BTC/USDT': '200' })
    const buys = Array.from({ length: 1_203 }, (_, n) => ({
      ...{ symbol: 'BTC/USDT', side: 'buy', amount: '0.001', price: '100' },
      at_ms: at(0).at_ms + n,
    }))
    await exchanges.addTrades('binance', key.api_key, buys)

    const { syncs } = await sync(user)

    expect(syncs).toMatchObject([{ status: 'synced', new_trades: 1_203, value: '700' }])
    expect(await portfolio(user)).toMatchObject({ BTC: { amount: 1, value: 200, cost: 100 }, USDT: { value: 500 } })
    expect((await sync(user)).syncs).toMatchObject([{ status: 'synced', new_trades: 0 }])
  })

  test('finds what was traded in markets that are closed or gone, whatever is held today', async () => {
    const exchanges = standInExchanges()
    await exchanges.setMarket('binance', 'VEN/USDT', 'closed')
    const old = (symbol: string) => [
      { symbol, side: 'buy', amount: '3', price: '10', ...at(1) },
      { symbol, side: 'sell', amount: '3', price: '12', ...at(2) },
    ]
    for (const [exchange, symbols] of [
      ['binance', ['VEN/USDT', 'SOL/USDT']],
      ['kraken', ['ICN/USD', 'LUNAX/USD']],
      ['coinbase', ['ICN/USD', 'LUNAX/USD']],
    ] as const) {
      const { user, key } = await connected(exchange, { balances: { BTC: '1' } })
      await exchanges.addTrades(exchange, key.api_key, symbols.flatMap(old))

      expect((await sync(user)).syncs).toMatchObject([{ status: 'synced', new_trades: 4 }])

      const found = await portfolio(user)
      for (const symbol of symbols)
        expect(found[symbol.split('/')[0] ?? ''], exchange).toMatchObject({ amount: 0, realised: 6 })
    }
  })

  test('keeps every trade but the odd ones, and shows its owner those and why', async () => {
    const stranger = await newUser()
    for (const exchange of ['binance', 'kraken', 'coinbase'] as const) {
      const { user, key } = await connected(exchange, { balances: { BTC: '1' } })
      const symbol = exchange === 'binance' ? 'BTC/USDT' : 'BTC/USD'
      const buy = { symbol, side: 'buy', amount: '1', price: '100' }
      const amount = { binance: 'qty', coinbase: 'size', kraken: 'vol' }[exchange]
      await standInExchanges().addTrades(exchange, key.api_key, [
        ...[
          { ...buy, ...at(1) },
          { ...buy, amount: '0', ...at(2) },
          { ...buy, price: '0', ...at(3) },
        ],
        { ...buy, amount: '1.0000000000000000001', ...at(4) },
        { ...buy, amount: '1000000000000000000000', ...at(5) },
        { ...buy, raw: { [amount]: 'a lot' }, ...at(6) },
        { ...buy, amount: '2', ...at(7) },
      ])

      const { syncs } = await sync(user)

      expect(syncs, exchange).toMatchObject([{ status: 'synced', new_trades: 2, skipped_rows: 5 }])
      expect(await portfolio(user)).toMatchObject({ BTC: { cost: 100 } })
      const { data } = await user.client.from('portfolio_skipped_rows').select('kind, reason').order('reason')
      expect(data).toEqual(
        ['amount_not_positive', 'not_readable', 'price_not_positive', 'too_large', 'too_many_decimals'].map(
          (reason) => ({
            kind: 'trade',
            reason,
          }),
        ),
      )
      expect((await stranger.client.from('portfolio_skipped_rows').select('kind')).data).toEqual([])
      expect((await sync(user)).syncs).toMatchObject([{ status: 'synced', new_trades: 0 }])
    }
  })

  test('of Binance keeps a fee that takes all of a trade, and a name that is too long, to their rows', async () => {
    const exchanges = standInExchanges()
    const long = `${'N'.repeat(41)}/USDT`
    for (const symbol of [long, '币安人生/USDT']) await exchanges.setMarket('binance', symbol, 'open')
    const { user, key } = await connected('binance', { balances: { BTC: '1', 币安人生: '7' } })
    const buy = { side: 'buy', amount: '1', price: '100' }
    await exchanges.addTrades('binance', key.api_key, [
      { ...buy, symbol: 'BTC/USDT', fee: '1', fee_asset: 'BTC', ...at(1) },
      { ...buy, symbol: long, ...at(2) },
      { ...buy, symbol: '币安人生/USDT', amount: '7', ...at(3) },
    ])

    const { syncs } = await sync(user)

    expect(syncs).toMatchObject([{ status: 'synced', new_trades: 1, skipped_rows: 2 }])
    expect(await portfolio(user)).toMatchObject({ 币安人生: { amount: 7, cost: 700 } })
    const { data } = await user.client.from('portfolio_skipped_rows').select('reason').order('reason')
    expect(data).toEqual([{ reason: 'fee_takes_all' }, { reason: 'name_not_readable' }])
    for (const symbol of [long, '币安人生/USDT']) await exchanges.setMarket('binance', symbol, 'gone')
  })

  test('is what strategies are made of: by the tag that their owner gives, or by asset', async () => {
    const { user, key, id } = await connected('kraken', { balances: { BTC: '1' } })
    // So long ago that Kraken tells days only.
    const day = new Date(Date.now() - 100 * 86_400_000).toISOString().slice(0, 10)
    const at = (minute: number) => ({ at_ms: Date.parse(day) + minute * 60_000 })
    const { trades } = await standInExchanges().addTrades('kraken', key.api_key, [
      { symbol: 'BTC/USD', side: 'buy', amount: '3', price: '100', ...at(0) },
      { symbol: 'BTC/USD', side: 'sell', amount: '1', price: '120', ...at(60) },
      { symbol: 'BTC/USD', side: 'sell', amount: '1', price: '90', ...at(61) },
      { symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.5', ...at(62) },
    ])
    await standInExchanges().setHistory({ 'BTC/USD': [{ ...at(62), price: '140' }] })
    await sync(user)
    const rpc = async (args: { tag: string; symbol?: string; trade_ids?: string[] }) =>
      (await user.client.rpc('tag_my_trades', { credential_id: id, ...args }).throwOnError()).data

    expect(await rpc({ tag: 'swing', symbol: 'BTC/USD' })).toBe(1)
    expect(await rpc({ tag: 'mistake', trade_ids: [trades[2]?.id ?? ''] })).toBe(1)

    const { data: tagged } = await user.client.rpc('get_my_strategies').throwOnError()
    expect(tagged).toMatchObject([
      {
        ...{ strategy: 'swing', trades: 2, closed_trades: 1, win_rate: 1, realised: 20, max_drawdown: 0 },
        held_seconds: 3600,
      },
      // Half a bitcoin that cost 50 went at 70.
      { strategy: null, trades: 1, realised: 20 },
      { strategy: 'mistake', trades: 1, realised: -10, max_drawdown: 10, days: [{ day, realised: -10 }] },
    ])
    const { data: byAsset } = await user.client.rpc('get_my_strategies', { group_by: 'asset' }).throwOnError()
    expect(byAsset).toMatchObject([
      { strategy: 'BTC', trades: 4, closed_trades: 3, winning_trades: 2, realised: 30, max_drawdown: 10 },
      { strategy: 'ETH', trades: 1, closed_trades: 0, win_rate: null, realised: 0 },
    ])
    const stranger = await newUser()
    const theirs = await stranger.client.rpc('tag_my_trades', { credential_id: id, tag: 'x', symbol: 'BTC/USD' })
    expect(theirs.error).toMatchObject({ code: 'not_found' })
    expect((await stranger.client.rpc('get_my_strategies')).data).toEqual([])
  })

  test.runIf(target().hasRealtime)('reaches its owner within a second, and nobody else', async () => {
    const { user, id } = await connected('coinbase', { balances: { BTC: '2' } })
    const stranger = await newUser()
    const own = await listenTo(await realtimeClient(user.accessToken), `user:${user.id}`)
    const foreign = await listenTo(await realtimeClient(stranger.accessToken), `user:${user.id}`)

    expect(own.result).toEqual(subscribed)
    expect(foreign.result).toMatchObject({ status: 'CHANNEL_ERROR' })
    await sync(user)

    await expect
      .poll(() => own.received, { timeout: 1_000, interval: 10 })
      .toMatchObject([{ event: 'snapshot', payload: { credential_id: id, quote_currency: 'USD' } }])
    expect(foreign.received).toEqual([])
  })

  test('runs by itself when it is due', async () => {
    const { user } = await connected('kraken', { balances: { ETH: '3' } })
    const jobs = () =>
      fetch(`${target().functionsUrl}/jobs/sync-portfolios`, {
        method: 'POST',
        headers: { apikey: target().secretKey },
      }).then((answer) => answer.status)

    await sql`update private.portfolio_syncs set next_sync_at = now() where user_id = ${user.id}`
    expect(await jobs()).toBe(200)

    await expect
      .poll(async () => (await user.client.from('holdings').select('asset, amount')).data)
      .toEqual([{ asset: 'ETH', amount: 3 }])
    const [next] = await sql`
      select extract(epoch from next_sync_at - last_synced_at)::integer as seconds from private.portfolio_syncs where user_id = ${user.id}`
    expect(next?.seconds).toBeGreaterThanOrEqual(15 * 60 * 0.9 - 1)
    expect(next?.seconds).toBeLessThanOrEqual(15 * 60 * 1.1 + 1)
  })

  test('is one at a time, however often it is asked for', async () => {
    const { user } = await connected('kraken', { balances: { ETH: '1' } })

    const answers = await Promise.all(Array.from({ length: 8 }, () => post(user, '/portfolio/sync')))

    expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(200))
    expect(answers.flatMap(({ body }) => synced.parse(body).syncs)).toHaveLength(1)
  })

  test('of a key that was revoked ends, and its owner is told; of an exchange that is down is tried again', async () => {
    const { user, key, id } = await connected('kraken')
    const exchanges = standInExchanges()
    await exchanges.setMood('kraken', key.api_key, { down: true })

    expect(await sync(user)).toMatchObject({
      syncs: [{ status: 'failed', reason: 'exchange_down' }],
      credentials: [{ status: 'active', error: 'exchange_down' }],
    })
    await exchanges.setMood('kraken', key.api_key, { down: false })
    await exchanges.changeKey('kraken', key.api_key, { revoked: true })
    await sql`update private.portfolio_syncs set attempts = 0 where credential_id = ${id}`
    expect(await sync(user)).toMatchObject({
      syncs: [{ status: 'failed', reason: 'wrong_key' }],
      credentials: [{ status: 'failed', error: 'wrong_key' }],
    })

    const { data } = await user.client.from('notifications').select('type, data').eq('type', 'credential_failed')
    expect(data).toEqual([{ type: 'credential_failed', data: { credential_id: id, reason: 'wrong_key' } }])
    expect((await sync(user)).syncs).toEqual([])
  })

  test('that an exchange slows down rests, for everybody, as long as it says', async () => {
    const { user, key } = await connected('coinbase')
    await standInExchanges().setMood('coinbase', key.api_key, { rate_limited: true })

    expect((await sync(user)).syncs).toMatchObject([{ status: 'failed', reason: 'rate_limited' }])

    expect(
      await sql`select paused_until > now() as rests from private.exchange_pauses where exchange_id = 'coinbase'`,
    ).toEqual([{ rests: true }])
    await sql`delete from private.exchange_pauses where exchange_id = 'coinbase'`
  })

  test('needs a live session', async () => {
    const { user } = await connected('kraken')
    await user.client.auth.signOut()

    expect(await post(user, '/portfolio/sync')).toMatchObject({
      status: 401,
      body: { error: { code: 'invalid_api_key' } },
    })
  })
})
