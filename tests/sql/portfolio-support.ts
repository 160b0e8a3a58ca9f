/** What the tests of the portfolio share: a credential of an exchange, a sync from lease to record, and what came of it. */
import { type Account, newAccount, type Sql, type Tx } from './support.ts'

export type Trade = {
  id: string
  executed_at: string
  side: 'buy' | 'sell'
  base: string
  quote: string
  amount: string
  price: string
  fee?: string
  fee_asset?: string
  quote_price?: string
  fee_price?: string
}
export type Connection = { account: Account; credentialId: string; exchange: string }
export type Read = {
  holdings?: Record<string, string> | null
  /** In the place of `holdings`: several rows of one asset. */
  rows?: { asset: string; amount: string; name: string }[]
  skipped?: unknown
  paths?: Record<string, string[]>
  prices?: Record<string, string>
  trades?: Trade[] | undefined
  cursor?: unknown
}
type Recorded = {
  recorded: boolean
  new_trades: string[]
  is_complete: boolean
  value: number
  total: number
  skipped_rows: number
}

/** Minute `n` of a day long ago, so that no price of today counts. */
export const minute = (n: number): string => new Date(Date.UTC(2024, 0, 2, 0, n)).toISOString()

/** 'buy 2 BTC at 100' of minute `n`, paid in USD. */
export const trade = (
  id: number | string,
  side: 'buy' | 'sell',
  amount: string,
  price: string,
  more: Partial<Trade> = {},
): Trade => ({
  ...{ id: `t${id}`, executed_at: minute(Number(id)), side, base: 'BTC', quote: 'USD', amount, price },
  ...more,
})

async function newExchange(sql: Sql | Tx): Promise<string> {
  const exchange = `sql${crypto.randomUUID().slice(0, 8)}`
  await sql`insert into private.exchanges (id, name) values (${exchange}, 'An exchange')`
  return exchange
}

/** An account with an active credential of an exchange of its own. */
export async function newConnection(sql: Sql | Tx, of?: { account?: Account; exchange?: string }): Promise<Connection> {
  const account = of?.account ?? (await newAccount(sql))
  const exchange = of?.exchange ?? (await newExchange(sql))
  const [row] = await sql`
    insert into public.credentials (user_id, kind, provider, name, last_four, status)
    values (${account.id}, 'exchange', ${exchange}, 'Mine', 'abcd', 'active') returning id`
  return { account, credentialId: row?.id, exchange }
}

/** A lease of the connection's sync, due or not. */
export async function lease(sql: Sql | Tx, { account, credentialId }: Connection): Promise<string> {
  await sql`
    update private.portfolio_syncs set next_sync_at = now() - interval '100 years' where credential_id = ${credentialId}`
  const [row] =
    await sql`select credential_id, lease_id from private.lease_portfolio_sync(1, ${account.id}, ${account.sessionId})`
  if (row?.credential_id !== credentialId) throw new Error('another sync was due earlier')
  return row.lease_id
}

export async function record(sql: Sql | Tx, leaseId: string, read: Read): Promise<Recorded> {
  const held = Object.entries(read.holdings ?? {}).map(([asset, amount]) => ({ asset, amount }))
  const holdings = read.holdings === null ? null : (read.rows ?? held)
  const json = (value: unknown) => (value === null || value === undefined ? null : JSON.stringify(value))
  const [row] = await sql`
    select private.record_portfolio_sync(${leaseId}, ${json(holdings)}::text::jsonb, ${json(read.prices ?? {})}::text::jsonb,
      ${json(read.trades ?? [])}::text::jsonb, ${json(read.cursor)}::text::jsonb,
      ${json(read.skipped)}::text::jsonb, ${json(read.paths)}::text::jsonb) as answer`
  return row?.answer
}

export const sync = async (sql: Sql | Tx, connection: Connection, read: Read): Promise<Recorded> =>
  record(sql, await lease(sql, connection), read)

/** Open lots as '2/3 BTC for 300': what is left of what, and what the whole cost. */
export const lotsOf = async (sql: Sql | Tx, { credentialId }: Connection): Promise<string[]> => {
  const rows = await sql`
    select trim_scale(remaining) || '/' || trim_scale(amount) || ' ' || asset || ' for ' || coalesce(trim_scale(cost)::text, '?') as lot
    from private.portfolio_lots where credential_id = ${credentialId} and remaining > 0 order by asset, acquired_at, trade_id`
  return rows.map((row) => row.lot)
}

/** Positions by asset: realised, sold without a cost, what that brought, sold without a value. */
export const positionsOf = async (sql: Sql | Tx, { credentialId }: Connection): Promise<Record<string, string[]>> => {
  const rows = await sql`
    select asset, array[trim_scale(realised), trim_scale(unknown_cost_sold), trim_scale(unknown_cost_proceeds),
      trim_scale(unvalued_sold)]::text[] as totals
    from private.portfolio_positions where credential_id = ${credentialId} order by asset`
  return Object.fromEntries(rows.map((row) => [row.asset, row.totals]))
}
