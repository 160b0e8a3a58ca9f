/** Readings without an event: of reconciliation, and of what turned out while somebody was buying. */
import { z } from 'zod'
import { answer, callSql, type Database, type Queries } from '../db.ts'
import type { Reading } from './reading.ts'

const outcomes = z.array(z.object({ object: z.string(), id: z.string(), outcome: z.string() }))
const known = z.array(z.object({ id: z.string() }))

export type ReadingOutcome = z.infer<typeof outcomes>[number]
export type ReadingStore = {
  /** The database's clock, as ISO. */
  databaseTime(): Promise<string>
  /** What each reading came to: same, changed, older, unknown_customer or mismatch. */
  applyReadings(readings: Reading[]): Promise<ReadingOutcome[]>
  /** The ids of one kind of object that we have and that were made since a time (ISO), or are open. Null: all. */
  knownObjects(object: Reading['object'], since: string | null): Promise<string[]>
}

/** What may still change, however old it is. Of sessions and customers nothing does. */
const open = (sql: Queries) => ({
  subscription: sql`select id from public.subscriptions where status not in ('canceled', 'incomplete_expired')`,
  invoice: sql`select id from public.payments where kind = 'subscription' and status = 'open'`,
  checkout_session: sql`select id from public.payments where kind = 'credit_pack' and status = 'processing'`,
  refund: sql`select id from public.refunds where status in ('pending', 'requires_action')`,
  dispute: sql`select id from public.disputes where status not in ('won', 'lost', 'warning_closed', 'prevented')`,
  customer: sql`select id from private.stripe_customers where false`,
})

export function createReadingStore(sql: Queries): ReadingStore {
  return {
    databaseTime: () => callSql(sql`select to_json(clock_timestamp()) #>> '{}' as answer`, answer(z.string())),
    applyReadings: (readings) => applyReadings(sql, readings),
    knownObjects: async (object, since) => {
      const rows = await callSql(
        sql`
          select id from private.known_stripe_objects(${object}, ${since}::text::timestamptz) union ${open(sql)[object]}`,
        known,
      )
      return rows.map(({ id }) => id)
    },
  }
}

const applyReadings = (sql: Queries, readings: Reading[]): Promise<ReadingOutcome[]> =>
  callSql(sql`select * from private.apply_stripe_readings(${JSON.stringify(readings)}::text::jsonb)`, outcomes)

/** The same, and nothing stays: each batch is taken back once it is known what it would have changed. */
export function createDryReadingStore(sql: Database): ReadingStore {
  const takenBack = new Error('taken back')
  return {
    ...createReadingStore(sql),
    applyReadings: async (readings) => {
      let outcomes: ReadingOutcome[] = []
      await sql
        .begin(async (transaction) => {
          outcomes = await applyReadings(transaction, readings)
          throw takenBack
        })
        .catch((error: unknown) => {
          if (error !== takenBack) throw error
        })
      return outcomes
    },
  }
}
