/** The jobs of billing, with Stripe and the database that they work on. Scripts and jobs run the same. */
import type { Database } from '../db.ts'
import { type AppliedCounts, applyEvents } from './apply-events.ts'
import { createInbox } from './inbox-database.ts'
import { listings } from './list-objects.ts'
import { createReadingStore } from './reading-database.ts'
import type { Kind } from './reading-kinds.ts'
import { type Reconciled, reconcile } from './reconcile.ts'
import { createStripe, isLiveKey } from './stripe-client.ts'
import { createStripeReader } from './stripe-reader.ts'

type Parts = {
  sql: Database
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
  const applying = { ...createInbox(sql), reader: createStripeReader(stripe), livemode, now, log }
  return {
    applyEvents: (): Promise<AppliedCounts> => applyEvents(applying),
    /** The lists are for the log, which takes no thousands of lines; `npm run stripe:reconcile` shows all. */
    reconcile: async () => {
      const until = now() + nightlyMs
      const parts = { sql, secretKey, apiUrl, days: nightlyDays, until, now, onProgress: () => {} }
      const { seen, repaired, unrepaired, foreign, is_complete } = await reconcileWithStripe(parts)
      return { seen, repaired: repaired.length, unrepaired: unrepaired.slice(0, namedAtMost), foreign, is_complete }
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
  const stripe = createStripe(secretKey, apiUrl)
  const since = days === null ? null : rest.now() - days * 86_400_000
  return reconcile({
    ...rest,
    listings: listings(stripe, since === null ? undefined : Math.floor(since / 1000)),
    ...{ reader: createStripeReader(stripe), store, livemode: isLiveKey(secretKey) },
    since: since === null ? null : new Date(since).toISOString(),
  })
}
