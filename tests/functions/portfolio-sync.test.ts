/** How a sync ends when something goes wrong, against the stand-in exchanges and a ledger of leases in memory. */
import { afterEach, describe, expect, test } from 'vitest'
import { AppError } from '../../functions/_shared/errors.ts'
import { handlePortfolioRequest } from '../../functions/_shared/portfolio/handle-portfolio-request.ts'
import type { Failed, Lease, PortfolioDatabase, Read } from '../../functions/_shared/portfolio/portfolio-database.ts'
import {
  countOutcomes,
  type PortfolioWorld,
  runSyncs,
  syncCredential,
} from '../../functions/_shared/portfolio/run-syncs.ts'
import { createWorld, type Name } from './exchanges-world.ts'

const exchanges = createWorld()
afterEach(() => exchanges.reset())

const buy = (minute: number) => ({
  ...{ symbol: 'BTC/USD', side: 'buy', amount: '1', price: '100' },
  at_ms: Date.UTC(2025, 0, 2, 0, minute),
})

/** A key at each exchange, whose leases are due once; `said` and `now` replace what the test is about. */
async function scene(
  names: Name[],
  settings: object = {},
  said: Partial<PortfolioDatabase> = {},
  now: () => number = Date.now,
) {
  const keys = new Map(
    await Promise.all(names.map(async (name) => [name, await exchanges.makeKey(name, settings)] as const)),
  )
  const due: Lease[] = names.map((name) => ({
    ...{ lease_id: `lease of ${name}`, credential_id: name, exchange_id: name, base_url: null, quote_currency: 'USD' },
    ...{ price_asset: name === 'binance' ? 'USDT' : null, cursor: null, held: [] },
  }))
  const kept = {
    reads: [] as Read[],
    failed: [] as Failed[],
    paused: [] as string[],
    rests: [] as unknown[],
    replayed: [] as string[],
    lines: [] as unknown[],
  }
  const database: PortfolioDatabase = {
    lease: async (_user, notOf) => {
      const at = due.findIndex(({ exchange_id }) => !notOf.includes(exchange_id))
      return at < 0 ? undefined : due.splice(at, 1)[0]
    },
    listSyncs: async () => [],
    open: async (id) => ({ opened: true, version: 3, fields: keyOf(id) }),
    record: async (_lease, read) => {
      kept.reads.push(read)
      return {
        recorded: true,
        new_trades: read.trades.length,
        skipped_rows: read.skipped.length,
        unpriced: null,
        value: read.holdings ? '1' : null,
      }
    },
    reopenGaps: async () => 0,
    listUnpriced: async () => [],
    pastPrices: async () => [],
    savePastPrices: async () => {},
    priceTrades: async () => ({ recorded: true, priced: 0 }),
    pause: async (lease) => void kept.paused.push(lease),
    replayPriced: async (lease) => kept.replayed.push(lease) > 0,
    pauseExchange: async (...rest) => void kept.rests.push(rest),
    fail: async (_lease, failed) => void kept.failed.push(failed),
    ...said,
  }
  const world: PortfolioWorld = {
    database,
    connect: ({ exchange, credentials }) => {
      const name = names.find((candidate) => candidate === exchange) ?? 'kraken'
      return exchanges.connect(name, credentials)
    },
    now,
    log: (line) => void kept.lines.push(line),
  }
  const keyOf = (id: string) => {
    const key = [...keys].find(([name]) => name === id)?.[1]
    if (!key) throw new Error(`no key for ${id}`)
    return key
  }
  return { world, kept, keyOf }
}

const whenever = { asker: null, requestId: 'r' }

describe('a sync', () => {
  test('that outlives its time gives back its lease with what it has, and the next goes on from there', async () => {
    const trades = Array.from({ length: 120 }, (_, n) => buy(n))
    const { world, kept, keyOf } = await scene(['kraken'])
    await exchanges.addTrades('kraken', keyOf('kraken').api_key, trades)
    const lease = await world.database.lease(null, [])
    if (!lease) throw new Error('nothing is due')

    const first = await syncCredential(lease, { until: Date.now(), requestId: 'r' }, world)
    const cursor = kept.reads.at(-1)?.cursor ?? null
    const second = await syncCredential({ ...lease, cursor }, { until: Date.now() + 60_000, requestId: 'r' }, world)

    expect(first).toMatchObject({ status: 'incomplete', new_trades: 50, value: null })
    expect(kept.paused).toEqual([lease.lease_id])
    expect(second).toMatchObject({ status: 'synced', new_trades: 70 })
    const ids = kept.reads.flatMap((read) => read.trades.map(({ id }) => id))
    expect([ids.length, new Set(ids).size]).toEqual([120, 120])
    expect(kept.reads.map(({ holdings }) => holdings !== null)).toEqual([false, false, false, true])
  })

  test('that runs is waited for, also when the next one is refused because the session has ended', async () => {
    const { world, kept } = await scene(['kraken'])
    const { lease } = world.database
    let asked = 0
    world.database.lease = (asker, notOf) => {
      asked += 1
      return asked === 1 ? lease(asker, notOf) : Promise.reject(new AppError('invalid_api_key'))
    }

    await expect(runSyncs(whenever, world)).rejects.toMatchObject({ code: 'invalid_api_key' })

    expect(kept.reads.at(-1)?.holdings).not.toBeNull()
  })

  test('by the endpoint is asked for with the level of the token, the address and the request id', async () => {
    const askers: unknown[] = []
    const { world } = await scene([], {}, { lease: async (asker) => void askers.push(asker) })
    const caller = { kind: 'user', userId: 'u', sessionId: 's', aal: 'aal1', isAnonymous: false } as const
    const headers = { authorization: 'Bearer t', 'x-forwarded-for': '203.0.113.9', 'x-request-id': 'r-1' }
    const request = new Request('http://f/portfolio/sync', { method: 'POST', headers })

    const endpoint = { ...world, verifyUserToken: async () => caller, newId: () => 'n' }
    const { status } = await handlePortfolioRequest(request, endpoint)

    expect(status).toBe(200)
    const about = { aal: 'aal1', ip: '203.0.113.9', user_agent: null, request_id: 'r-1' }
    expect(askers).toEqual([{ userId: 'u', sessionId: 's', request: about }])
  })

  test('whose lease another took over stops at the first page, and fails nothing', async () => {
    const { world, kept, keyOf } = await scene(['kraken'], {}, { record: async () => ({ recorded: false }) })
    await exchanges.addTrades('kraken', keyOf('kraken').api_key, [buy(1)])

    expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'lost' }])
    expect(kept.failed).toEqual([])
  })

  test('fails with the reason, once for a key that is refused twice, and with a rest when the exchange wants one', async () => {
    for (const [change, failed] of [
      [{ revoked: true }, { reason: 'wrong_key', refusedVersion: 3 }],
      [{ permissions: [] }, { reason: 'missing_permission', refusedVersion: 3 }],
    ] as const) {
      const { world, kept, keyOf } = await scene(['kraken'])
      await exchanges.changeKey('kraken', keyOf('kraken').api_key, change)
      expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'failed', reason: failed.reason }])
      expect(kept.failed).toEqual([{ ...failed, pauseSeconds: undefined }])
    }
    const { world, kept } = await scene(['coinbase'])
    await exchanges.setMood('coinbase', { rate_limited: true })
    await runSyncs(whenever, world)
    expect(kept.failed).toEqual([
      { reason: 'rate_limited', pauseSeconds: expect.any(Number), refusedVersion: undefined },
    ])
    expect(kept.failed[0]?.pauseSeconds).toBeGreaterThan(0)
  })

  test('does not call a key refused that works when it is asked again', async () => {
    const { world, kept, keyOf } = await scene(['kraken'])
    const { api_key } = keyOf('kraken')
    const { connect } = world
    world.connect = async (target) => {
      const connection = await connect(target)
      return {
        ...connection,
        call: async (schema, method, ...args) => {
          if (method !== 'fetchBalance') return await connection.call(schema, method, ...args)
          await exchanges.changeKey('kraken', api_key, { revoked: true })
          try {
            return await connection.call(schema, method, ...args)
          } finally {
            await exchanges.changeKey('kraken', api_key, { revoked: false })
          }
        },
      }
    }

    expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'failed', reason: 'unknown' }])
    expect(kept.failed).toEqual([{ reason: 'unknown' }])
  })

  test('that meets an error of ours fails without its words, and so does one whose failure cannot be noted', async () => {
    const secret = 'postgres said: parameter $1 = hush'
    const broken = async () => {
      throw Object.assign(new Error(secret), { code: '40001' })
    }
    const { world, kept } = await scene(['kraken'], {}, { record: broken, fail: broken })

    const outcomes = await runSyncs(whenever, world)

    expect(outcomes).toMatchObject([{ status: 'failed', reason: 'internal' }])
    expect(kept.lines).toHaveLength(2)
    expect(kept.lines).toMatchObject([{ cause: 'Error 40001' }, { cause: 'Error 40001' }])
    expect(JSON.stringify([outcomes, kept.lines])).not.toContain('hush')
  })

  test('whose prices of the past cannot be kept records what is held all the same, and says so in the log', async () => {
    const unpriced = { id: 't1', executed_at: '2024-01-02T00:00:00Z', quote: 'NOSUCH', quote_missing: true }
    const { world, kept } = await scene(
      ['kraken'],
      { balances: { BTC: '1' } },
      {
        listUnpriced: async () => [{ ...unpriced, fee_asset: null, fee_missing: false }],
        priceTrades: async () => {
          throw Object.assign(new Error('canceling statement: hush'), { code: '57014' })
        },
      },
    )

    expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'synced' }])
    expect(kept.reads.at(-1)?.holdings).toMatchObject([{ asset: 'BTC' }])
    expect(kept.lines).toMatchObject([{ message: 'past prices', cause: 'Error 57014' }])
  })

  test.each([
    ['for the time that it wants', 429, { 'retry-after': '7' }, [['binance', 7]]],
    ['for a minute when it says no time', 429, {}, [['binance', 60]]],
    ['not when it is only down', 503, {}, []],
  ])(
    'whose prices of the past the exchange refuses is recorded, and the exchange rests %s',
    async (_, status, headers, rests) => {
      const unpriced = { id: 't1', executed_at: '2024-01-02T00:00:00Z', quote: 'BTC', quote_missing: true }
      let asked = 0
      const { world, kept, keyOf } = await scene(
        ['binance'],
        { balances: { BTC: '1' } },
        { listUnpriced: async () => [{ ...unpriced, fee_asset: null, fee_missing: false }] },
      )
      world.connect = () =>
        exchanges.connect('binance', keyOf('binance'), {
          fetch: async (input, init) => {
            if (!String(input).includes('klines')) return await exchanges.world.fetch(input, init)
            asked += 1
            return new Response('', { status, headers })
          },
        })

      expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'synced' }])
      expect([asked, kept.rests, kept.failed]).toEqual([1, rests, []])
      expect(kept.reads.at(-1)?.holdings).toMatchObject([{ asset: 'BTC' }])
    },
  )

  test('works profit and loss out once, however many parts its prices of the past come in', async () => {
    const part = (n: number) => ({
      ...{ id: `t${n}`, executed_at: '2024-01-02T00:00:00Z', quote: 'NOSUCH', quote_missing: true },
      ...{ fee_asset: null, fee_missing: false },
    })
    const parts = [[part(1)], [part(2)], [part(3)]]
    const { world, kept } = await scene(['kraken'], {}, { listUnpriced: async () => parts.shift() ?? [] })

    expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'synced' }])
    expect([parts.length, kept.replayed]).toEqual([0, ['lease of kraken']])
  })

  test('that lost its lease while it asked for prices records nothing more', async () => {
    const unpriced = { id: 't1', executed_at: '2024-01-02T00:00:00Z', quote: 'NOSUCH', quote_missing: true }
    const { world, kept } = await scene(
      ['kraken'],
      {},
      {
        listUnpriced: async () => [{ ...unpriced, fee_asset: null, fee_missing: false }],
        priceTrades: async () => ({ recorded: false }),
      },
    )

    expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'lost' }])
    expect(kept.reads.filter(({ holdings }) => holdings !== null)).toEqual([])
  })

  test('of a credential that does not open asks no exchange', async () => {
    const { world, kept } = await scene(
      ['kraken'],
      {},
      {
        open: async () => ({ opened: false, code: 'credential_unreadable' }),
      },
    )

    expect(await runSyncs(whenever, world)).toMatchObject([{ status: 'failed', reason: 'credential_unreadable' }])
    expect(kept.failed).toEqual([{ reason: 'credential_unreadable' }])
    expect(await exchanges.calls()).toEqual([])
  })

  test('prices what trades of this hour were paid with, and counts a stablecoin of Binance as the currency', async () => {
    const { world, kept, keyOf } = await scene(['binance'], { balances: { ETH: '1' } })
    const { api_key } = keyOf('binance')
    await exchanges.setPrices({ 'ETH/USDT': '3000', 'BTC/USDT': '60000' })
    await exchanges.addTrades('binance', api_key, [
      { symbol: 'ETH/BTC', side: 'buy', amount: '1', price: '0.05' },
      { symbol: 'ETH/USDT', side: 'buy', amount: '1', price: '2000', at_ms: buy(1).at_ms },
    ])

    await runSyncs(whenever, world)

    const trades = kept.reads.flatMap((read) => read.trades)
    expect(trades.find(({ quote }) => quote === 'USDT')).toMatchObject({ quote_price: '1' })
    expect(trades.find(({ quote }) => quote === 'BTC')).not.toHaveProperty('quote_price')
    expect(kept.reads.at(-1)).toMatchObject({
      holdings: [{ asset: 'ETH', amount: '1', name: 'ETH' }],
      prices: { USDT: '1', ETH: '3000', BTC: '60000' },
    })
  })
})

describe('syncs', () => {
  test('run for several exchanges at once, and one after the other for one exchange', async () => {
    const running = new Map<string, number>()
    const most = { atOnce: 0, ofOne: 0 }
    const { world } = await scene(['kraken', 'coinbase', 'binance'])
    const { open } = world.database
    const twice = [
      await world.database.lease(null, []),
      await world.database.lease(null, []),
      await world.database.lease(null, []),
    ]
    const due = [...twice, ...twice].filter((lease) => lease !== undefined)
    world.database.lease = async (_user, notOf) => {
      const at = due.findIndex(({ exchange_id }) => !notOf.includes(exchange_id))
      return at < 0 ? undefined : due.splice(at, 1)[0]
    }
    world.database.open = async (id, requestId) => {
      running.set(id, (running.get(id) ?? 0) + 1)
      most.ofOne = Math.max(most.ofOne, ...running.values())
      most.atOnce = Math.max(most.atOnce, [...running.values()].filter((count) => count > 0).length)
      await new Promise((resolve) => setTimeout(resolve, 20))
      running.set(id, (running.get(id) ?? 0) - 1)
      return open(id, requestId)
    }

    const outcomes = await runSyncs(whenever, world)

    expect(countOutcomes(outcomes)).toEqual({ synced: 6, incomplete: 0, failed: 0, lost: 0 })
    expect(most).toEqual({ atOnce: 3, ofOne: 1 })
  })

  test('begin none after their time', async () => {
    let now = 0
    const { world } = await scene(['kraken', 'coinbase'], {}, {}, () => (now += 25_000))

    expect(await runSyncs(whenever, world)).toHaveLength(1)
  })
})
