/** The stand-in exchanges of the stack that the tests started, as their owner steers them. */
import { z } from 'zod'
import { target } from '../target.ts'

type Exchange = 'binance' | 'coinbase' | 'kraken'
const tradesMade = z.object({ trades: z.array(z.looseObject({ id: z.string() })) })
const keyMade = z.object({ api_key: z.string(), api_secret: z.string() })

/** `port` is the stack's; without it, that of the tests' own. */
export function standInExchanges(port: number | undefined = target().own?.port) {
  const control = async (method: string, path: string, body: object): Promise<unknown> => {
    const answer = await fetch(`http://127.0.0.1:${(port ?? 0) + 7}/control${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    if (!answer.ok) throw new Error(await answer.text())
    return answer.json()
  }
  return {
    makeKey: async (exchange: Exchange, settings: object = {}) =>
      keyMade.parse(await control('POST', '/keys', { exchange, ...settings })),
    changeKey: (exchange: Exchange, api_key: string, settings: object) =>
      control('PATCH', '/keys', { exchange, api_key, ...settings }),
    addTrades: async (exchange: Exchange, api_key: string, trades: object[]) =>
      tradesMade.parse(await control('POST', '/trades', { exchange, api_key, trades })),
    /** Of one key, so that others are left alone. */
    setMood: (exchange: Exchange, api_key: string, mood: object) =>
      control('POST', '/mood', { exchange, api_key, ...mood }),
    /** A market of a name of its own, so that other tests have the same ones as ever. */
    setMarket: (exchange: Exchange, symbol: string, listing: 'open' | 'closed' | 'gone') =>
      control('POST', '/markets', { exchange, symbol, listing }),
    setHistory: (prices: Record<string, { at_ms: number; price: string }[]>) => control('POST', '/history', prices),
    setPrices: (prices: Record<string, string>) => control('POST', '/prices', prices),
  }
}
