/**
 * Local stand-ins for exchanges, ours: one server that speaks the part of the REST of Binance (spot), Coinbase (Advanced
 * Trade) and Kraken (spot) that reading an account needs. They check signatures, clocks, addresses and permissions as
 * the real ones do and hold real state in memory. Nothing can be traded or withdrawn: there is no such address here.
 * `/control` is not an exchange's: through it tests and the demo make keys, trades, prices and moods.
 */
import { Hono } from 'hono'
import { binanceApi } from './exchanges/binance.ts'
import { coinbaseApi } from './exchanges/coinbase.ts'
import { controlApi } from './exchanges/control.ts'
import { krakenApi } from './exchanges/kraken.ts'
import { type Bindings, createState } from './exchanges/state.ts'

/** The base URL of an exchange is this server's address and the exchange's name: `http://127.0.0.1:54328/kraken`. */
export function createExchanges({ now = Date.now }: { now?: () => number } = {}): {
  fetch(request: Request, bindings?: Bindings): Response | Promise<Response>
} {
  const state = createState(now)
  const exchanges: Record<string, (request: Request, bindings: Bindings) => Response | Promise<Response>> = {
    binance: binanceApi(state).fetch,
    coinbase: coinbaseApi(state).fetch,
    kraken: krakenApi(state).fetch,
    control: controlApi(state).fetch,
  }
  const app = new Hono<{ Bindings: Bindings }>()
  app.all('/:name/*', (c) => {
    const name = c.req.param('name')
    const answer = exchanges[name]
    if (!answer) return c.notFound()
    // The path behind the name is what was signed.
    const url = new URL(c.req.url)
    url.pathname = url.pathname.slice(name.length + 1)
    return answer(new Request(url, c.req.raw), c.env)
  })
  return { fetch: (request, bindings = {}) => app.fetch(request, bindings) }
}
