/** The SQL functions behind a sync. Leases, limits and exactly-once are theirs; this only carries them. */
import { z } from 'zod'
import type { Database } from '../db.ts'
import { connectExchange } from '../exchanges/connect.ts'
import { askSql } from '../refusal.ts'
import type { PortfolioWorld } from './world.ts'

const leases = z
  .array(
    z.object({
      lease_id: z.guid(),
      credential_id: z.guid(),
      exchange_id: z.string(),
      base_url: z.string().nullable(),
      quote_currency: z.string(),
      price_asset: z.string().nullable(),
      cursor: z.record(z.string(), z.unknown()).transform((cursor) => (Object.keys(cursor).length ? cursor : null)),
      held: z.array(z.string()),
    }),
  )
  .max(1)
const opened = z.discriminatedUnion('opened', [
  z.object({
    opened: z.literal(true),
    version: z.int(),
    fields: z.object({ api_key: z.string(), api_secret: z.string().default(''), passphrase: z.string().optional() }),
  }),
  z.object({ opened: z.literal(false), code: z.string() }),
])
const recorded = z.discriminatedUnion('recorded', [
  z.object({ recorded: z.literal(false) }),
  z.object({ recorded: z.literal(true), new_trades: z.int(), value: z.string().nullable() }),
])

export function createPortfolioWorld(
  sql: Database,
  outside: Pick<PortfolioWorld, 'now' | 'log'> & { fetch: typeof fetch },
): PortfolioWorld {
  return {
    ...outside,
    connect: (target) => connectExchange(target, outside),
    lease: async (ofUser, notOf) => {
      const rows = await askSql(sql`select * from private.lease_portfolio_sync(1, ${ofUser}, ${notOf})`)
      return leases.parse([...rows])[0]
    },
    open: async (credentialId, requestId) => {
      const [row] = await sql`select private.open(${credentialId}, 'sync', ${requestId}) as answer`
      return opened.parse(row?.answer)
    },
    record: async (leaseId, { holdings, prices, trades, cursor }) => {
      const json = (value: unknown) => (value === null ? null : JSON.stringify(value))
      // Numbers leave jsonb as text: JavaScript's would lose digits.
      const [row] = await sql`
        select (r.answer -> 'recorded') as recorded, jsonb_array_length(r.answer -> 'new_trades') as new_trades,
          r.answer ->> 'value' as value
        from (select private.record_portfolio_sync(${leaseId}, ${json(holdings)}::text::jsonb, ${json(prices)}::text::jsonb,
          ${json(trades)}::text::jsonb, ${json(cursor)}::text::jsonb) as answer) r`
      return recorded.parse(row)
    },
    pause: async (leaseId) => {
      await sql`select private.pause_portfolio_sync(${leaseId})`
    },
    fail: async (leaseId, { reason, pauseSeconds = null, refusedVersion = null }) => {
      await sql`select private.fail_portfolio_sync(${leaseId}, ${reason}, ${pauseSeconds}, ${refusedVersion})`
    },
  }
}
