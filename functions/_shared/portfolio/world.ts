/** What a sync of a portfolio needs from outside: its lease and its records in SQL, the sealed key, and the exchange. */
import type { connectExchange } from '../exchanges/connect.ts'
import type { Holding } from '../exchanges/read-holdings.ts'
import type { Trade } from '../exchanges/trade.ts'

/** The right to sync one credential, as private.lease_portfolio_sync gives it. */
export type Lease = {
  lease_id: string
  credential_id: string
  exchange_id: string
  base_url: string | null
  quote_currency: string
  /** What this exchange prices assets in; one of it counts as one of the currency. Null: the currency itself. */
  price_asset: string | null
  /** Where the last sync was in the history of trades; null at the beginning. */
  cursor: unknown
  /** The assets of the last sync. */
  held: string[]
}

export type TradeRow = Omit<Trade, 'exchange_trade_id' | 'symbol'> & {
  id: string
  /** In the portfolio currency; absent when the sync's prices say it, or nobody does. */
  quote_price?: string
  fee_price?: string
}

/** `holdings` null: a page of a history that goes on. */
export type Read = {
  holdings: Holding[] | null
  prices: Record<string, string>
  trades: TradeRow[]
  cursor: unknown
}

export type Recorded = { recorded: false } | { recorded: true; new_trades: number; value: string | null }

export type Failed = {
  reason: string
  /** For how long nobody may ask this exchange. */
  pauseSeconds?: number | undefined
  /** Of the key that its owner must look at. */
  refusedVersion?: number | undefined
}

export type OpenedKey =
  | { opened: true; version: number; fields: { api_key: string; api_secret: string; passphrase?: string | undefined } }
  | { opened: false; code: string }

export type PortfolioWorld = {
  /** The next sync that is due: anybody's, or one user's even before that. */
  lease(ofUser: string | null, notOf: string[]): Promise<Lease | undefined>
  open(credentialId: string, requestId: string): Promise<OpenedKey>
  record(leaseId: string, read: Read): Promise<Recorded>
  /** These two answer nothing when the lease is another's already. */
  pause(leaseId: string): Promise<void>
  fail(leaseId: string, failed: Failed): Promise<void>
  connect: (target: Parameters<typeof connectExchange>[0]) => ReturnType<typeof connectExchange>
  /** Epoch milliseconds. */
  now(): number
  log(line: Record<string, unknown>): void
}
