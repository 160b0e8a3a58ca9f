/**
 * Kraken tells trades of every market, also of those that it has no more, by the market's own name: XXBTZUSD, SOLUSD,
 * XICNXETH. This reads BASE/QUOTE in such a name.
 */
import { z } from 'zod'
import type { Connection } from './connect.ts'

const currencies = z.record(
  z.string(),
  z.looseObject({ id: z.string(), code: z.string(), info: z.looseObject({ altname: z.string().nullish() }) }),
)
const markets = z.record(
  z.string(),
  z.looseObject({ base: z.string(), quote: z.string(), baseId: z.string(), quoteId: z.string() }),
)

type Names = { assets: Map<string, string>; quotes: Set<string> }
/** One look at the lists for each connection. */
const known = new WeakMap<Connection, Promise<Names>>()

/** Undefined: nothing that Kraken trades against ends this name. */
export async function nameKrakenMarket(connection: Connection, id: string): Promise<string | undefined> {
  const names = known.get(connection) ?? readNames(connection)
  known.set(connection, names)
  return splitKrakenName(id, await names)
}

async function readNames(connection: Connection): Promise<Names> {
  const assets = new Map<string, string>()
  const quotes = new Set(oldQuotes)
  for (const { id, code, info } of Object.values(await connection.call(currencies, 'fetchCurrencies'))) {
    assets.set(id, code)
    if (info.altname) assets.set(info.altname, code)
  }
  for (const { base, quote, baseId, quoteId } of Object.values(await connection.call(markets, 'loadMarkets'))) {
    assets.set(baseId, base).set(quoteId, quote)
    quotes.add(quote)
  }
  return { assets, quotes }
}

/** What there were markets in, whatever there are today. */
const oldQuotes = ['USD', 'EUR', 'GBP', 'CAD', 'JPY', 'AUD', 'CHF', 'KRW', 'BTC', 'ETH', 'USDT', 'USDC', 'DAI']
/** Names of assets that may be on no list any more: the same ones in both of Kraken's forms. */
const oldForms: [string, string][] = oldQuotes.flatMap((code): [string, string][] => {
  const short = code === 'BTC' ? 'XBT' : code
  const long = (['BTC', 'ETH'].includes(code) ? 'X' : 'Z') + short
  return ['USDT', 'USDC', 'DAI', 'CHF'].includes(code)
    ? [[short, code]]
    : [
        [short, code],
        [long, code],
      ]
})

/** An old name is four letters of which the first says coin or money. */
const isLong = (name: string) => /^[XZ][A-Z]{3}$/.test(name)

/** @internal For tests: the names of markets that nobody lists. */
export function splitKrakenName(id: string, { assets, quotes }: Names): string | undefined {
  const names = new Map([...oldForms, ...assets])
  const splits = Array.from({ length: Math.max(id.length - 1, 0) }, (_, n) => [id.slice(0, n + 1), id.slice(n + 1)])
  const likely = splits.flatMap(([left = '', right = '']) => {
    const quote = names.get(right)
    return quote && quotes.has(quote) ? [{ left, right, base: names.get(left), quote }] : []
  })
  const both = likely.find(({ base }) => base !== undefined)
  // Long names go together; else the longest end wins, as USDT does over T.
  const old = likely.find(({ left, right }) => isLong(left) && isLong(right))
  const short = likely.find(({ right }) => !isLong(right)) ?? likely[0]
  const found = both ?? old ?? short
  if (!found) return undefined
  return `${found.base ?? (found === old ? found.left.slice(1) : found.left)}/${found.quote}`
}
