/** The SQL functions behind a sync. Leases, limits and exactly-once are theirs; this only carries them. */
import { z } from 'zod'
import { answer, callSql, type Database, nothing } from '../db.ts'
import { connectExchange } from '../exchanges/connect.ts'
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
      return (await callSql(sql`select * from private.lease_portfolio_sync(1, ${ofUser}, ${notOf})`, leases))[0]
    },
    open: (credentialId, requestId) =>
      callSql(sql`select private.open(${credentialId}, 'sync', ${requestId}) as answer`, answer(opened)),
    record: async (leaseId, { holdings, prices, trades, cursor }) => {
      const json = (value: unknown) => (value === null ? null : JSON.stringify(value))
      // Numbers leave jsonb as text: JavaScript's would lose digits.
      const [row] = await callSql(
        sql`
        select (r.answer -> 'recorded') as recorded, jsonb_array_length(r.answer -> 'new_trades') as new_trades,
          r.answer ->> 'value' as value
        from (select private.record_portfolio_sync(${leaseId}, ${json(holdings)}::text::jsonb, ${json(prices)}::text::jsonb,
          ${json(trades)}::text::jsonb, ${json(cursor)}::text::jsonb) as answer) r`,
        z.tuple([recorded]),
      )
      return row
    },
    pause: async (leaseId) => {
      await callSql(sql`select private.pause_portfolio_sync(${leaseId})`, nothing)
    },
    fail: async (leaseId, { reason, pauseSeconds = null, refusedVersion = null }) => {
      await callSql(
        sql`select private.fail_portfolio_sync(${leaseId}, ${reason}, ${pauseSeconds}, ${refusedVersion})`,
        nothing,
      )
    },
  }
}
