/** Syncs what is due, or what one user asks for: several exchanges at once, one credential of each at a time. */

import type { Asker } from '../auth/identify-caller.ts'
import type { Connection, connectExchange } from '../exchanges/connect.ts'
import { ExchangeFailure } from '../exchanges/failure.ts'
import { readHoldings, readWrappers } from '../exchanges/read-holdings.ts'
import type { Trade } from '../exchanges/read-trade-page.ts'
import { readTradesSince } from '../exchanges/read-trades.ts'
import { testConnection } from '../exchanges/test-connection.ts'
import { describeFailure } from '../failure.ts'
import type { Lease, PortfolioDatabase, TradeRow } from './portfolio-database.ts'
import { pauseSeconds, pricePastTrades } from './price-past-trades.ts'
import { readPrices } from './price-paths.ts'

export type PortfolioWorld = {
  database: PortfolioDatabase
  connect(access: Parameters<typeof connectExchange>[0]): ReturnType<typeof connectExchange>
  /** Epoch milliseconds. */
  now(): number
  log(line: Record<string, unknown>): void
}

export type Outcome = {
  credential_id: string
  exchange: string
  /** `incomplete`: a long history, of which a part is read; the next sync goes on. `lost`: another worker took over. */
  status: 'synced' | 'incomplete' | 'failed' | 'lost'
  new_trades: number
  /** What could not be read: public.portfolio_skipped_rows has them, and why. */
  skipped_rows: number
  /** Holdings that `value` leaves out, because nobody knows their price. */
  unpriced: number | null
  value: string | null
  reason: string | null
  message: string | null
}

/** Below the 60 s that pg_net waits, and the 150 s after which hosted Supabase ends a request. */
const budgetMs = 40_000
const exchangesAtOnce = 4

export async function runSyncs(
  { asker, requestId }: { asker: Asker | null; requestId: string },
  world: PortfolioWorld,
): Promise<Outcome[]> {
  const until = world.now() + budgetMs
  const running = new Map<string, Promise<unknown>>()
  const outcomes: Outcome[] = []
  try {
    while (world.now() < until) {
      // An exchange limits how often we ask it, whoever's key that is.
      const lease = running.size < exchangesAtOnce ? await world.database.lease(asker, [...running.keys()]) : undefined
      if (lease) {
        const sync = syncCredential(lease, { until, requestId }, world).then((outcome) => {
          outcomes.push(outcome)
          running.delete(lease.exchange_id)
        })
        running.set(lease.exchange_id, sync)
      } else if (running.size > 0) {
        await Promise.race(running.values())
      } else {
        break
      }
    }
  } finally {
    // Also when the next lease is refused, because the session has ended: work that nobody waits for is frozen after the answer.
    await Promise.all(running.values())
  }
  return outcomes
}

/** For the log: how many ended how. */
export function countOutcomes(outcomes: Outcome[]): Record<Outcome['status'], number> {
  const counts = { synced: 0, incomplete: 0, failed: 0, lost: 0 }
  for (const { status } of outcomes) counts[status] += 1
  return counts
}

/** Answers that need the owner: no later try gets another one. */
const ownersReasons = new Set(['wrong_key', 'missing_permission', 'ip_not_allowed'])
/**
 * One sync of one credential: its holdings, what they are worth, and every trade since the last one. Never throws: a failure is recorded with the lease. `until` (epoch milliseconds) is when reading a long history stops.
 * Every page is recorded with its cursor in one transaction, so whoever dies here is followed by one who goes on.
 * @internal For tests: one sync whose time is up.
 */
export async function syncCredential(
  lease: Lease,
  { until, requestId }: { until: number; requestId: string },
  world: PortfolioWorld,
): Promise<Outcome> {
  const outcome: Outcome = {
    ...{ credential_id: lease.credential_id, exchange: lease.exchange_id },
    ...{ status: 'synced', new_trades: 0, skipped_rows: 0, unpriced: null, value: null, reason: null, message: null },
  }
  const key = { version: 0, connection: undefined as Connection | undefined }
  try {
    const opened = await world.database.open(lease.credential_id, requestId)
    if (!opened.opened) return await failed(outcome, { reason: opened.code, message: null }, lease, world)
    key.version = opened.version
    key.connection = await world.connect({
      exchange: lease.exchange_id,
      credentials: opened.fields,
      base_url: lease.base_url,
    })
    return await read(key.connection, lease, until, outcome, world)
  } catch (error) {
    if (!(error instanceof ExchangeFailure)) {
      world.log({ level: 'error', message: 'sync', credential_id: lease.credential_id, cause: describeFailure(error) })
      return await failed(outcome, { reason: 'internal', message: null }, lease, world)
    }
    const { reason, message, detail, retryAfterS } = await confirmed(error, key.connection)
    world.log({ level: 'warn', message: 'sync', credential_id: lease.credential_id, reason, detail })
    return await failed(outcome, { reason, message }, lease, world, {
      pauseSeconds: reason === 'rate_limited' ? (retryAfterS ?? pauseSeconds) : undefined,
      refusedVersion: ownersReasons.has(reason) ? key.version : undefined,
    })
  }
}

async function read(
  connection: Connection,
  lease: Lease,
  until: number,
  outcome: Outcome,
  world: PortfolioWorld,
): Promise<Outcome> {
  const { holdings, skipped: skippedHoldings } = await readHoldings(connection)
  const unwrap = await readWrappers(connection)
  const assets = [...new Set([...holdings.map(({ asset }) => asset), ...lease.held])]
  const prices = createPrices(connection, lease)
  await prices.add(holdings.map(({ asset }) => asset))
  for await (const { trades: told, skipped, cursor } of readTradesSince(connection, lease.cursor, { assets })) {
    const trades = told.map((trade) => unwrapped(trade, unwrap))
    await prices.add(recent(trades, world.now()).flatMap(({ quote, fee_asset }) => [quote, fee_asset ?? quote]))
    const rows = trades.map((trade) => toRow(trade, lease.price_asset))
    const recorded = await world.database.record(lease.lease_id, {
      holdings: null,
      prices: prices.known(),
      trades: rows,
      skipped: skipped.map((row) => ({ kind: 'trade' as const, ...row })),
      pricePaths: prices.paths(),
      cursor,
    })
    if (!recorded.recorded) return { ...outcome, status: 'lost' }
    outcome.new_trades += recorded.new_trades
    outcome.skipped_rows += recorded.skipped_rows
    if (world.now() >= until) {
      await world.database.pause(lease.lease_id)
      return { ...outcome, status: 'incomplete' }
    }
  }
  // What is held is recorded, whatever becomes of prices of the past.
  const isOurs = await pricePastTrades(connection, lease, until, world).catch((error: unknown) => {
    const cause = describeFailure(error)
    world.log({ level: 'error', message: 'past prices', credential_id: lease.credential_id, cause })
    return true
  })
  if (!isOurs) return { ...outcome, status: 'lost' }
  const skipped = skippedHoldings.map((row) => ({ kind: 'holding' as const, ...row }))
  const last = { holdings, prices: prices.known(), trades: [], skipped, pricePaths: prices.paths(), cursor: null }
  const recorded = await world.database.record(lease.lease_id, last)
  if (!recorded.recorded) return { ...outcome, status: 'lost' }
  const { value, unpriced } = recorded
  return { ...outcome, value, unpriced, skipped_rows: outcome.skipped_rows + recorded.skipped_rows }
}

/** Each asset is asked for once, also when nobody has a price for it. */
function createPrices(connection: Connection, { quote_currency, price_asset }: Lease) {
  const quote = price_asset ?? quote_currency
  const known: Record<string, string> = { [quote]: '1' }
  const paths: Record<string, string[]> = {}
  const asked = new Set([quote, quote_currency])
  return {
    known: () => known,
    paths: () => paths,
    async add(assets: string[]): Promise<void> {
      const fresh = [...new Set(assets)].filter((asset) => !asked.has(asset))
      if (fresh.length === 0) return
      for (const asset of fresh) asked.add(asset)
      for (const { asset, price, path } of await readPrices(connection, fresh, quote)) {
        known[asset] = price
        paths[asset] = path
      }
    },
  }
}

const hourMs = 3_600_000
/** Of older trades SQL takes no price of today, so none is asked for. */
const recent = (trades: Trade[], now: number): Trade[] =>
  trades.filter(({ executed_at }) => now - Date.parse(executed_at) < hourMs)

/** A trade between a wrapper and its asset moves nothing: it is skipped, and what was paid for the asset stays its cost. */
const unwrapped = (trade: Trade, unwrap: (name: string) => string): Trade => ({
  ...trade,
  base: unwrap(trade.base),
  quote: unwrap(trade.quote),
  fee_asset: trade.fee_asset && unwrap(trade.fee_asset),
})

function toRow({ exchange_trade_id, symbol: _, ...trade }: Trade, priceAsset: string | null): TradeRow {
  return {
    id: exchange_trade_id,
    ...trade,
    ...(trade.quote === priceAsset ? { quote_price: '1' } : {}),
    ...(trade.fee_asset !== null && trade.fee_asset === priceAsset ? { fee_price: '1' } : {}),
  }
}

/** Before a key is called refused, the exchange is asked again whether it is. */
async function confirmed(error: ExchangeFailure, connection: Connection | undefined) {
  const { reason, message, detail, retryAfterS } = error
  if (!connection || !ownersReasons.has(reason)) return { reason, message, detail, retryAfterS }
  const again = await testConnection(connection)
  return again.ok
    ? { reason: 'unknown', message, detail: `${detail}, and not when asked again`, retryAfterS }
    : { reason: again.reason, message: again.message, detail: again.detail, retryAfterS }
}

async function failed(
  outcome: Outcome,
  { reason, message }: { reason: string; message: string | null },
  { lease_id }: Lease,
  world: PortfolioWorld,
  more: { pauseSeconds?: number | undefined; refusedVersion?: number | undefined } = {},
): Promise<Outcome> {
  await world.database.fail(lease_id, { reason, ...more }).catch((error: unknown) => {
    // The lease ends by itself.
    world.log({ level: 'error', message: 'sync', lease_id, cause: describeFailure(error) })
  })
  return { ...outcome, status: 'failed', reason, message }
}
