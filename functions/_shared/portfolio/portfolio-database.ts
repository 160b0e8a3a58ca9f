/** The SQL functions behind a sync. Leases, limits and exactly-once are theirs; this only carries them. */
import { z } from 'zod'
import type { Asker } from '../auth/identify-caller.ts'
import { answer, callSql, nothing, type Queries } from '../db.ts'
import { granularities } from '../exchanges/read-candles.ts'
import type { Holding } from '../exchanges/read-holdings.ts'
import type { Trade } from '../exchanges/read-trade-page.ts'
import { openCredential } from '../open-credential.ts'

export type PortfolioDatabase = ReturnType<typeof createPortfolioDatabase>

/** The right to sync one credential. */
const leases = z
  .array(
    z.object({
      lease_id: z.guid(),
      credential_id: z.guid(),
      exchange_id: z.string(),
      base_url: z.string().nullable(),
      quote_currency: z.string(),
      /** What this exchange prices assets in; one of it counts as one of the currency. Null: the currency itself. */
      price_asset: z.string().nullable(),
      /** Where the last sync was in the history of trades; null at the beginning. */
      cursor: z.record(z.string(), z.unknown()).transform((cursor) => (Object.keys(cursor).length ? cursor : null)),
      /** Every asset that was ever seen in the account. */
      held: z.array(z.string()),
    }),
  )
  .max(1)
export type Lease = z.infer<typeof leases>[number]

const recorded = z.discriminatedUnion('recorded', [
  z.object({ recorded: z.literal(false) }),
  z.object({
    recorded: z.literal(true),
    new_trades: z.int(),
    value: z.string().nullable(),
    /** Holdings, and trades for the first time. */
    skipped_rows: z.int(),
    /** Holdings whose price nobody knows; null before the last page. */
    unpriced: z.int().nullable(),
  }),
])

/** How a user's exchanges are doing; times as ISO. */
const syncList = z.array(
  z.object({
    credential_id: z.guid(),
    exchange: z.string(),
    name: z.string(),
    status: z.string(),
    is_running: z.boolean(),
    error: z.string().nullable(),
    last_synced_at: z.string().nullable(),
    next_sync_at: z.string().nullable(),
    skipped_rows: z.int(),
  }),
)

export type TradeRow = Omit<Trade, 'exchange_trade_id' | 'symbol'> & {
  id: string
  /** In the portfolio currency; absent when the sync's prices say it, or nobody does. */
  quote_price?: string
  fee_price?: string
}

/** What cannot be read, for its owner to see: public.portfolio_skipped_rows says which reasons there are. */
type SkippedRow = { kind: 'holding' | 'trade'; id: string; reason: string; content: unknown }

/** `holdings` null: a page of a history that goes on. */
export type Read = {
  holdings: Holding[] | null
  prices: Record<string, string>
  trades: TradeRow[]
  skipped: SkippedRow[]
  /** The markets that the price of an asset came over. */
  pricePaths: Record<string, string[]>
  /** Null: it stays as it is. */
  cursor: Record<string, unknown> | null
}

/** A trade that lacks the price of its quote or of what its fee was paid in. */
const unpricedTrades = z.array(
  z.object({
    id: z.string(),
    executed_at: z.string(),
    quote: z.string(),
    quote_missing: z.boolean(),
    fee_asset: z.string().nullable(),
    fee_missing: z.boolean(),
  }),
)
export type UnpricedTrade = z.infer<typeof unpricedTrades>[number]
export type PricedTrade = {
  id: string
  quote_price: string | null
  fee_price: string | null
  /** What is still missing, and why: trades.price_gap. */
  gap: 'not_asked' | 'no_market' | 'no_history' | null
}

const pastPrices = z.array(
  z.object({
    symbol: z.string(),
    granularity: z.enum(granularities),
    starts_at: z.string(),
    price: z.string().nullable(),
  }),
)
/** The last price of a candle; null: its exchange was asked, and told none. */
export type PastPrice = z.infer<typeof pastPrices>[number]

const priced = z.discriminatedUnion('recorded', [
  z.object({ recorded: z.literal(false) }),
  z.object({ recorded: z.literal(true), priced: z.int() }),
])
const tradesAtOnce = 500

export type Failed = {
  reason: string
  /** For how long nobody may ask this exchange. */
  pauseSeconds?: number | undefined
  /** Of the key that its owner must look at. */
  refusedVersion?: number | undefined
}

export function createPortfolioDatabase(sql: Queries) {
  return {
    /** The next sync that is due: anybody's, or one user's even before that, who is refused here. */
    lease: async (asker: Asker | null, notOf: string[]): Promise<Lease | undefined> => {
      const { userId, sessionId, request } = asker ?? { userId: null, sessionId: null, request: null }
      const query = sql`
        select * from private.lease_portfolio_sync(1, ${userId}, ${sessionId}, ${notOf}, ${request && sql.json(request)})`
      return (await callSql(query, leases))[0]
    },
    listSyncs: ({ userId, sessionId, request }: Asker) =>
      callSql(
        sql`
          select coalesce(json_agg(s), '[]') as answer
          from private.list_portfolio_syncs(${userId}, ${sessionId}, ${sql.json(request)}) s`,
        answer(syncList),
      ),
    open: (credentialId: string, requestId: string) => openCredential(sql, credentialId, 'sync', requestId),
    record: async (leaseId: string, { holdings, prices, trades, skipped, pricePaths, cursor }: Read) => {
      const json = (value: unknown) => (value === null ? null : JSON.stringify(value))
      // Numbers leave jsonb as text: JavaScript's would lose digits.
      const [row] = await callSql(
        sql`
        select (r.answer -> 'recorded') as recorded, jsonb_array_length(r.answer -> 'new_trades') as new_trades,
          r.answer ->> 'value' as value, (r.answer -> 'skipped_rows')::integer as skipped_rows,
          (r.answer -> 'unpriced')::integer as unpriced
        from (select private.record_portfolio_sync(${leaseId}, ${json(holdings)}::text::jsonb, ${json(prices)}::text::jsonb,
          ${json(trades)}::text::jsonb, ${json(cursor)}::text::jsonb, ${json(skipped)}::text::jsonb,
          ${json(pricePaths)}::text::jsonb) as answer) r`,
        z.tuple([recorded]),
      )
      return row
    },
    ...createPastPrices(sql),
    /** These two answer nothing when the lease is another's already. */
    pause: async (leaseId: string): Promise<void> => {
      await callSql(sql`select private.pause_portfolio_sync(${leaseId})`, nothing)
    },
    fail: async (leaseId: string, { reason, pauseSeconds, refusedVersion }: Failed): Promise<void> => {
      await callSql(
        sql`
          select private.fail_portfolio_sync(${leaseId}, ${reason}, ${pauseSeconds ?? null}, ${refusedVersion ?? null})`,
        nothing,
      )
    },
    /** For what was recorded all the same; a sync that fails says it with its failure. */
    pauseExchange: async (exchangeId: string, pauseSeconds: number): Promise<void> => {
      await callSql(sql`select private.pause_exchange(${exchangeId}, ${pauseSeconds})`, nothing)
    },
  }
}

/** What trades were worth in the past, and which of them still lack it. */
function createPastPrices(sql: Queries) {
  return {
    /** What the exchange could not tell before, once a day. */
    reopenGaps: (leaseId: string): Promise<number> =>
      callSql(sql`select private.reopen_price_gaps(${leaseId}) as answer`, answer(z.int())),
    /** The oldest first; after the last one of the call before. */
    listUnpriced: (leaseId: string, after: UnpricedTrade | undefined): Promise<UnpricedTrade[]> =>
      callSql(
        sql`
          select coalesce(json_agg(t), '[]') as answer
          from private.list_unpriced_trades(${leaseId}, ${tradesAtOnce}, ${after?.executed_at ?? null}::text::timestamptz, ${after?.id ?? null}) t`,
        answer(unpricedTrades),
      ),
    pastPrices: (exchangeId: string, wanted: PastPrice[]): Promise<PastPrice[]> =>
      callSql(
        sql`
          select coalesce(json_agg(json_build_object('symbol', p.symbol, 'granularity', p.granularity, 'starts_at', p.starts_at,
            'price', p.price::text)), '[]') as answer
          from private.get_past_prices(${exchangeId}, ${JSON.stringify(wanted)}::text::jsonb) p`,
        answer(pastPrices),
      ),
    savePastPrices: async (exchangeId: string, told: PastPrice[]): Promise<void> => {
      await callSql(sql`select private.save_past_prices(${exchangeId}, ${JSON.stringify(told)}::text::jsonb)`, nothing)
    },
    priceTrades: (leaseId: string, told: PricedTrade[]) =>
      callSql(
        sql`select private.price_trades(${leaseId}, ${JSON.stringify(told)}::text::jsonb) as answer`,
        answer(priced),
      ),
    /** Profit and loss after these prices, and those that an earlier sync did not come to. False: the lease is another's already. */
    replayPriced: (leaseId: string): Promise<boolean> =>
      callSql(sql`select private.replay_priced_trades(${leaseId}) as answer`, answer(z.boolean())),
  }
}
