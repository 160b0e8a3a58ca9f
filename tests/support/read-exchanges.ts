/** Runs in Deno, with the functions' import map: reads each exchange once, and prints what it found as JSON. */
import process from 'node:process'
import { z } from 'zod'
import { connectExchange } from '../../functions/_shared/exchanges/connect.ts'
import { readHoldings } from '../../functions/_shared/exchanges/read-holdings.ts'
import { readTradesSince } from '../../functions/_shared/exchanges/read-trades.ts'
import { testConnection } from '../../functions/_shared/exchanges/test-connection.ts'
import { readPrices } from '../../functions/_shared/portfolio/price-paths.ts'

const credentials = z.object({ api_key: z.string(), api_secret: z.string() })
const targets = z.array(z.object({ exchange: z.string(), base_url: z.string(), credentials }))

const found = []
for (const target of targets.parse(JSON.parse(process.env.TARGETS ?? ''))) {
  const startedAt = performance.now()
  const connection = await connectExchange(target, { fetch, now: Date.now, gapMs: 1 })
  const connect_ms = Math.round(performance.now() - startedAt)
  const trades = []
  for await (const page of readTradesSince(connection, null, { assets: ['BTC'] })) trades.push(...page.trades)
  found.push({
    test: await testConnection(connection),
    holdings: await readHoldings(connection),
    prices: await readPrices(connection, ['BTC'], 'EUR'),
    trades,
    connect_ms,
  })
}
console.log(JSON.stringify(found))
