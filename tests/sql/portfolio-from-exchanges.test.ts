/** Whole syncs, from the stand-in exchanges into the database: nothing that an exchange tells is left out without a word. */
import { afterEach, describe, expect, test } from 'vitest'
import { createPortfolioDatabase } from '../../functions/_shared/portfolio/portfolio-database.ts'
import { type Outcome, runSyncs } from '../../functions/_shared/portfolio/run-syncs.ts'
import { createWorld, type Name } from '../functions/exchanges-world.ts'
import { type Connection, newConnection } from './portfolio-support.ts'
import { asUser, rolledBack, type Tx } from './support.ts'

const exchanges = createWorld()
afterEach(() => exchanges.reset())

const isName = (exchange: string): exchange is Name => ['binance', 'coinbase', 'kraken'].includes(exchange)

type Account = Connection & { api_key: string; name: Name }

/** A credential whose key the exchange knows. */
async function connected(tx: Tx, name: Name, balances: object): Promise<Account> {
  const connection = await newConnection(tx, { exchange: name })
  const key = await exchanges.makeKey(name, { balances })
  for (const [field, value] of Object.entries(key))
    if (field === 'api_key' || field === 'api_secret')
      await tx`select private.store_secret(${connection.credentialId}, ${connection.account.id}, ${field}, ${value})`
  return { ...connection, name, api_key: key.api_key }
}

/** As the job does it, which finds this credential only. */
async function sync(tx: Tx, { credentialId }: Account): Promise<Outcome | undefined> {
  await tx`
    update private.portfolio_syncs set next_sync_at = now() - interval '1 minute' where credential_id = ${credentialId}`
  const lines: unknown[] = []
  const outcomes = await runSyncs(
    { asker: null, requestId: 'r' },
    {
      database: createPortfolioDatabase(tx),
      connect: ({ exchange, credentials }) => {
        if (!isName(exchange)) throw new Error(`${exchange} has no stand-in`)
        return exchanges.connect(exchange, credentials)
      },
      now: Date.now,
      log: (line) => void lines.push(line),
    },
  )
  expect(lines).toEqual([])
  return outcomes[0]
}

type Row = Record<string, unknown>
const portfolioOf = (tx: Tx, { account }: Account): Promise<Record<string, Row>> =>
  asUser(tx, account.id, async (as) => {
    const rows = await as`
      select p.asset, trim_scale(p.amount)::text as amount, trim_scale(p.price)::text as price, trim_scale(p.cost)::text as cost,
        trim_scale(p.realised)::text as realised, p.price_path
      from public.get_my_portfolio() p`
    return Object.fromEntries(rows.map(({ asset, ...row }) => [asset, row]))
  })
const skippedOf = (tx: Tx, { account }: Account): Promise<string[]> =>
  asUser(tx, account.id, async (as) => {
    const rows =
      await as`select kind || ' ' || id || ' ' || reason as row from public.portfolio_skipped_rows order by 1`
    return rows.map(({ row }) => row)
  })

const at = (minute: number) => ({ at_ms: Date.UTC(2025, 0, 2, 0, minute) })

describe('balances that earn', () => {
  test.each<[Name, object, object, string[]]>([
    [
      'kraken',
      { 'XBT.F': '0.4', 'XBT.B': '0.3', 'XBT.M': '0.2', 'XBT.S': '0.1', 'USD.M': '10' },
      { 'BTC/USD': '70000' },
      ['1 BTC', '10 USD'],
    ],
    ['kraken', { 'DOT28.S': '1', 'DOT.P': '1' }, { 'DOT/BTC': '0.5', 'BTC/USD': '70010' }, ['2 DOT']],
    ['binance', { LDBTC: '0.75', BTC: '0.25', LDUSDT: '10' }, { 'BTC/USDT': '70000' }, ['1 BTC', '10 USDT']],
    ['coinbase', { ETH2: '1', ETH: '1', USD: '10' }, { 'ETH/USD': '35000' }, ['2 ETH', '10 USD']],
  ])('of %s count as what they wrap: %j', (name, balances, prices, held) =>
    rolledBack(async (tx) => {
      await exchanges.setPrices(prices)
      const account = await connected(tx, name, balances)

      expect(await sync(tx, account)).toMatchObject({ status: 'synced', value: '70010', skipped_rows: 0, unpriced: 0 })
      const rows = await portfolioOf(tx, account)
      expect(Object.entries(rows).map(([asset, { amount }]) => `${amount} ${asset}`)).toEqual(held)
    }),
  )

  test.each<[Name, string, string, string]>([
    ['kraken', 'XBT.F', 'BTC/USD', 'BTC'],
    ['binance', 'LDBTC', 'BTC/USDT', 'BTC'],
    ['coinbase', 'ETH2', 'ETH/USD', 'ETH'],
  ])('of %s keep what their asset cost when it moves into them, for that is no sale', (name, wrapper, symbol, asset) =>
    rolledBack(async (tx) => {
      const account = await connected(tx, name, { [asset]: '2' })
      await exchanges.setPrices({ [symbol]: '150' })
      await exchanges.addTrades(name, account.api_key, [{ symbol, side: 'buy', amount: '2', price: '100', ...at(1) }])
      await sync(tx, account)
      const before = await portfolioOf(tx, account)

      await exchanges.changeKey(name, account.api_key, { balances: { [wrapper]: '2' } })
      await sync(tx, account)

      expect(before[asset]).toMatchObject({ amount: '2', cost: '200', realised: '0' })
      expect(await portfolioOf(tx, account)).toEqual(before)
    }),
  )
})

test.each<[Name, string, object, string, string[]]>([
  ['kraken', 'CAD', { 'USD/CAD': '1.25' }, '0.8', ['USD/CAD']],
  ['kraken', 'DOT', { 'DOT/BTC': '0.00008', 'BTC/USD': '60000' }, '4.8', ['DOT/BTC', 'BTC/USD']],
  ['binance', 'TRY', { 'USDT/TRY': '40' }, '0.025', ['USDT/TRY']],
  ['coinbase', 'GBP', { 'BTC/GBP': '50000', 'BTC/USD': '60000' }, '1.2', ['BTC/GBP', 'BTC/USD']],
])('%s: the price of %s comes over the shortest way, which its owner sees', (name, asset, prices, price, path) =>
  rolledBack(async (tx) => {
    await exchanges.setPrices(prices)
    const account = await connected(tx, name, { [asset]: '100' })

    expect(await sync(tx, account)).toMatchObject({ status: 'synced', unpriced: 0 })
    expect((await portfolioOf(tx, account))[asset]).toMatchObject({ price, price_path: path })
  }),
)

test('an asset without a price is told, and has no way', () =>
  rolledBack(async (tx) => {
    const account = await connected(tx, 'kraken', { NOSUCH: '5', USD: '10' })

    expect(await sync(tx, account)).toMatchObject({ status: 'synced', value: '10', unpriced: 1, skipped_rows: 0 })
    expect(await portfolioOf(tx, account)).toMatchObject({
      NOSUCH: { amount: '5', price: null, price_path: null },
      USD: { price: '1', price_path: null },
    })
  }))

const long = 'A'.repeat(41)

describe('an odd row', () => {
  test.each(['kraken', 'binance', 'coinbase'] as const)(
    'of %s’s balances costs itself only, and its owner sees it',
    (name) =>
      rolledBack(async (tx) => {
        const quote = name === 'binance' ? 'USDT' : 'USD'
        const odd = { ETH: '1000000000000000000000', SOL: '0.1234567890123456789', [long]: '1', BTC: '' }
        const account = await connected(tx, name, { [quote]: '10', 币安人生: '2', ...odd })

        expect(await sync(tx, account)).toMatchObject({ status: 'synced', skipped_rows: 4, reason: null })

        expect(await skippedOf(tx, account)).toEqual([
          `holding ${long} name_not_readable`,
          'holding BTC not_readable',
          'holding ETH too_large',
          'holding SOL too_many_decimals',
        ])
        const rows = await portfolioOf(tx, account)
        expect(Object.keys(rows).sort()).toEqual([quote, '币安人生'])
        const list = await asUser(
          tx,
          account.account.id,
          (as) => as`select skipped_rows from public.get_my_portfolio_syncs()`,
        )
        expect([...list]).toEqual([{ skipped_rows: 4 }])
      }),
  )

  test.each(['kraken', 'binance', 'coinbase'] as const)(
    'of %s’s trades costs itself only, and its owner sees it',
    (name) =>
      rolledBack(async (tx) => {
        const symbol = name === 'binance' ? 'BTC/USDT' : 'BTC/USD'
        const account = await connected(tx, name, { BTC: '1' })
        const good = { symbol, side: 'buy', amount: '1', price: '100' }
        const { trades } = await exchanges.addTrades(name, account.api_key, [
          { ...good, ...at(1) },
          { ...good, amount: '1000000000000000000000', ...at(2) },
          { ...good, amount: '0.1234567890123456789', ...at(3) },
          { ...good, price: '0.1234567890123456789', ...at(4) },
          { ...good, ...at(5) },
        ])

        expect(await sync(tx, account)).toMatchObject({
          status: 'synced',
          new_trades: 2,
          skipped_rows: 3,
          reason: null,
        })

        const idOf = (n: number) => `${name === 'binance' ? 'BTC/USDT:' : ''}${trades[n]?.id}`
        expect(await skippedOf(tx, account)).toEqual(
          [
            `trade ${idOf(1)} too_large`,
            `trade ${idOf(2)} too_many_decimals`,
            `trade ${idOf(3)} too_many_decimals`,
          ].sort(),
        )
        expect(await sync(tx, account)).toMatchObject({ status: 'synced', new_trades: 0, skipped_rows: 0 })
      }),
  )

  test.each<[string, Name, object, string]>([
    ['no amount', 'kraken', { amount: '0' }, 'amount_not_positive'],
    ['no amount', 'binance', { amount: '0' }, 'amount_not_positive'],
    ['no amount', 'coinbase', { amount: '0' }, 'amount_not_positive'],
    ['no price', 'kraken', { price: '0' }, 'price_not_positive'],
    ['no price', 'binance', { price: '0' }, 'price_not_positive'],
    ['no price', 'coinbase', { price: '0' }, 'price_not_positive'],
    ['a fee of all of it', 'binance', { fee: '1', fee_asset: 'BTC' }, 'fee_takes_all'],
    ['a fee in an asset of 41 characters', 'binance', { fee: '1', fee_asset: long }, 'name_not_readable'],
  ])('that is a trade with %s at %s is skipped', (_, name, odd, reason) =>
    rolledBack(async (tx) => {
      const symbol = name === 'binance' ? 'BTC/USDT' : 'BTC/USD'
      const account = await connected(tx, name, { BTC: '1' })
      const good = { symbol, side: 'buy', amount: '1', price: '100' }
      await exchanges.addTrades(name, account.api_key, [
        { ...good, ...odd, ...at(1) },
        { ...good, ...at(2) },
      ])

      expect(await sync(tx, account)).toMatchObject({ status: 'synced', new_trades: 1, skipped_rows: 1 })

      expect(await skippedOf(tx, account)).toEqual([expect.stringMatching(new RegExp(`^trade .* ${reason}$`))])
    }),
  )

  test.each(['binance', 'coinbase', 'kraken'] as const)('is none that %s names in another script', (name) =>
    rolledBack(async (tx) => {
      const symbol = name === 'binance' ? '币安人生/USDT' : '币安人生/USD'
      await exchanges.setMarket(name, symbol, 'open')
      await exchanges.setPrices({ [symbol]: '3' })
      const account = await connected(tx, name, { 币安人生: '2' })
      await exchanges.addTrades(name, account.api_key, [{ symbol, side: 'buy', amount: '2', price: '1', ...at(1) }])

      expect(await sync(tx, account)).toMatchObject({ status: 'synced', new_trades: 1, skipped_rows: 0, value: '6' })

      expect((await portfolioOf(tx, account)).币安人生).toMatchObject({ amount: '2', cost: '2', price: '3' })
    }),
  )

  test.each([
    ['an asset and its staked form', 'ETH2.S/ETH', 'base_is_quote'],
    ['an asset with a name of 41 characters', `${long}/USD`, 'name_not_readable'],
  ])('that is a trade of %s is skipped', (_, symbol, reason) =>
    rolledBack(async (tx) => {
      await exchanges.setMarket('kraken', symbol, 'open')
      const account = await connected(tx, 'kraken', { BTC: '1' })
      await exchanges.addTrades('kraken', account.api_key, [{ symbol, side: 'buy', amount: '1', price: '1', ...at(1) }])

      expect(await sync(tx, account)).toMatchObject({ status: 'synced', new_trades: 0, skipped_rows: 1 })

      expect(await skippedOf(tx, account)).toEqual([expect.stringMatching(new RegExp(`^trade .* ${reason}$`))])
    }),
  )

  test('that names a price of nothing leaves the price out, and everything else is valued', () =>
    rolledBack(async (tx) => {
      await exchanges.setPrices({
        'BTC/USD': '0',
        'BTC/EUR': '0',
        'BTC/USDT': '0',
        'ETH/BTC': '0',
        'USDT/USD': '1',
        'ETH/USD': '5',
      })
      const account = await connected(tx, 'kraken', { BTC: '1', ETH: '2' })

      expect(await sync(tx, account)).toMatchObject({ status: 'synced', value: '10', unpriced: 1, skipped_rows: 0 })
    }))
})
