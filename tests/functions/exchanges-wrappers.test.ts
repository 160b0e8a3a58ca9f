/** Balances that earn or are staked are the asset that they wrap, and odd ones cost themselves only. */
import { expect, test } from 'vitest'
import { readHoldings } from '../../functions/_shared/exchanges/read-holdings.ts'
import { createWorld, type Name } from './exchanges-world.ts'

async function holdingsOf(exchange: Name, balances: object) {
  const { makeKey, connect } = createWorld()
  return readHoldings(await connect(exchange, await makeKey(exchange, { balances })))
}

test.each<[Name, string, string]>([
  ['kraken', 'XBT.F', 'BTC'],
  ['kraken', 'XBT.B', 'BTC'],
  ['kraken', 'XBT.M', 'BTC'],
  ['kraken', 'XBT.S', 'BTC'],
  ['kraken', 'XBT.T', 'BTC'],
  ['kraken', 'XXBT.F', 'BTC'],
  ['kraken', 'XBT14.S', 'BTC'],
  ['kraken', 'ETH.F', 'ETH'],
  ['kraken', 'ETH2', 'ETH'],
  ['kraken', 'ETH2.S', 'ETH'],
  ['kraken', 'DOT.P', 'DOT'],
  ['kraken', 'DOT28.S', 'DOT'],
  ['kraken', 'SOL03.S', 'SOL'],
  ['kraken', 'USD.M', 'USD'],
  ['kraken', 'ZUSD.HOLD', 'USD'],
  ['kraken', 'USDT.F', 'USDT'],
  ['kraken', 'XDG.F', 'DOGE'],
  ['kraken', 'NEW.F', 'NEW'],
  ['binance', 'LDBTC', 'BTC'],
  ['binance', 'LDUSDT', 'USDT'],
  ['binance', 'LDSOL2', 'SOL'],
  ['binance', 'LDLDO', 'LDO'],
  ['binance', 'LD币安人生', '币安人生'],
  ['coinbase', 'ETH2', 'ETH'],
])('%s: %s is %s', async (exchange, name, asset) => {
  const { holdings, skipped } = await holdingsOf(exchange, { [name]: '0.5' })

  expect(holdings).toEqual([{ asset, amount: '0.5', name: expect.any(String) }])
  expect(skipped).toEqual([])
})

test.each<[Name, string]>([
  ['binance', 'LDO'],
  ['binance', 'LDNOSUCH'],
  ['binance', 'LD'],
  ['binance', '币安人生'],
  ['kraken', 'XYZ.Q'],
  ['kraken', 'SOL03'],
  ['coinbase', 'LDBTC'],
  ['coinbase', 'BTC.F'],
])('%s: %s is what it is called', async (exchange, name) => {
  expect((await holdingsOf(exchange, { [name]: '0.5' })).holdings).toEqual([{ asset: name, amount: '0.5', name }])
})

test('kraken: an asset and what wraps it stay rows of their own, for who adds them up', async () => {
  const { holdings } = await holdingsOf('kraken', { BTC: '1', 'XBT.F': '2', 'XBT.B': '3' })

  expect(holdings.map(({ asset, amount, name }) => `${amount} ${asset} as ${name}`).sort()).toEqual([
    '1 BTC as BTC',
    '2 BTC as BTC.F',
    '3 BTC as BTC.B',
  ])
})

test.each<[string, string]>([
  ['1e21', '1000000000000000000000'],
  ['0.1234567890123456789', '0.1234567890123456789'],
  ['-3', '-3'],
])('an amount of %s is handed on as it is', async (amount, told) => {
  for (const exchange of ['binance', 'coinbase', 'kraken'] as const) {
    const { holdings } = await holdingsOf(exchange, { ETH: amount, SOL: '1' })
    expect(
      holdings.map((holding) => holding.amount),
      exchange,
    ).toEqual([told, '1'])
  }
})

test.each(['', '1'.repeat(101)])('an amount of "%s" is skipped, and the other one is read', async (amount) => {
  for (const exchange of ['binance', 'coinbase', 'kraken'] as const) {
    const { holdings, skipped } = await holdingsOf(exchange, { ETH: amount, SOL: '1' })
    expect(holdings, exchange).toEqual([{ asset: 'SOL', amount: '1', name: 'SOL' }])
    expect(skipped, exchange).toEqual([{ id: 'ETH', reason: 'not_readable', content: expect.any(Object) }])
  }
})
