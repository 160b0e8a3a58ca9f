/** The jobs of billing, with Stripe and the database that they work on. Scripts and jobs run the same. */
import type { Queries } from '../db.ts'
import { describeFailure } from '../failure.ts'
import { type AppliedCounts, applyEvents } from './apply-events.ts'
import { createInbox } from './inbox-database.ts'
import { listings } from './list-objects.ts'
import { createReadingStore } from './reading-database.ts'
import type { Kind } from './reading-kinds.ts'
import { type Reconciled, reconcile } from './reconcile.ts'
import { createStripe, isLiveKey } from './stripe-client.ts'
import { createStripeReader } from './stripe-reader.ts'

type Parts = {
  sql: Queries
  secretKey: string
  apiUrl: string | undefined
  now(): number
  log(line: Record<string, unknown>): void
}

/** Stripe retries for three days; what a month did not bring is brought by nobody but us. */
const nightlyDays = 35
/** Below the 150 s after which hosted Supabase ends a request. */
const nightlyMs = 120_000
const namedAtMost = 50

export function createBillingJobs({ sql, secretKey, apiUrl, now, log }: Parts) {
  const stripe = createStripe(secretKey, apiUrl)
  const livemode = isLiveKey(secretKey)
  const inbox = createInbox(sql)
  const applying = { ...inbox, reader: createStripeReader(stripe), livemode, now, log }
  /** Nobody reads the log of every night. */
  const warn = async (details: Record<string, unknown>) => {
    const dedupeKey = new Date(now()).toISOString().slice(0, 10)
    try {
      await inbox.raise({ type: 'stripe_reconcile_incomplete', severity: 'medium', details, dedupeKey, ip: null })
    } catch (error) {
      const line = { message: 'a security event was not written', type: 'stripe_reconcile_incomplete' }
      log({ level: 'error', ...line, cause: describeFailure(error) })
    }
  }
  return {
    applyEvents: (): Promise<AppliedCounts> => applyEvents(applying),
    /** The lists are for the log, which takes no thousands of lines; `npm run stripe:reconcile` shows all. */
    reconcile: async () => {
      const until = now() + nightlyMs
      const parts = { sql, secretKey, apiUrl, days: nightlyDays, until, now, onProgress: () => {} }
      try {
        const { seen, repaired, unrepaired, foreign, is_complete } = await reconcileWithStripe(parts)
        const counts = { seen, repaired: repaired.length, foreign, is_complete }
        if (unrepaired.length > 0 || !is_complete) await warn({ ...counts, unrepaired: unrepaired.length })
        return { ...counts, unrepaired: unrepaired.slice(0, namedAtMost) }
      } catch (error) {
        await warn({ is_complete: false, error: describeFailure(error) })
        throw error
      }
    },
  }
}

/** `days` null: everything there ever was. */
export function reconcileWithStripe({
  sql,
  secretKey,
  apiUrl,
  days,
  store = createReadingStore(sql),
  ...rest
}: Omit<Parts, 'log'> & {
  days: number | null
  until: number
  store?: ReturnType<typeof createReadingStore>
  onProgress(kind: Kind, seen: number): void
}): Promise<Reconciled> {
  const stripe = createStripe(secretKey, apiUrl, { isPatient: true })
  const since = days === null ? null : rest.now() - days * 86_400_000
  return reconcile({
    ...rest,
    listings: listings(stripe, since === null ? undefined : Math.floor(since / 1000)),
    ...{ reader: createStripeReader(stripe), store, livemode: isLiveKey(secretKey) },
    since: since === null ? null : new Date(since).toISOString(),
  })
}
