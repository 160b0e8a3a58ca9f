/** The SQL functions behind a sync. Leases, limits and exactly-once are theirs; this only carries them. */
import { z } from 'zod'
import type { Asker } from '../auth/identify-caller.ts'
import { answer, callSql, nothing, type Queries } from '../db.ts'
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
  }
}
