/** The jobs of billing, with Stripe and the database that they work on. Scripts and jobs run the same. */
import type { Queries } from '../db.ts'
import { describeFailure } from '../failure.ts'
import { type AppliedCounts, applyEvents } from './apply-events.ts'
import { type BillingDatabase, createBillingDatabase, warn } from './billing-database.ts'
import { type ChangeCounts, changeStripe } from './change-stripe.ts'
import type { Kind } from './readings.ts'
import { type Reconciled, reconcile } from './reconcile.ts'
import { createStripe, isLiveKey } from './stripe-client.ts'
import { createStripeReader, listings } from './stripe-reader.ts'

type Parts = {
  sql: Queries
  secretKey: string
  apiUrl: string | undefined
  /** For how long a pass over the inbox begins new batches; undefined: as long as a job may. */
  applyingMs?: number
  now(): number
  log(line: Record<string, unknown>): void
}

/** Stripe retries for three days; what a month did not bring is brought by nobody but us. */
const nightlyDays = 35
/** Below the 150 s after which hosted Supabase ends a request. */
const nightlyMs = 120_000
const namedAtMost = 50

export function createBillingJobs({ sql, secretKey, apiUrl, applyingMs, now, log }: Parts) {
  const stripe = createStripe(secretKey, apiUrl)
  const livemode = isLiveKey(secretKey)
  const database = createBillingDatabase(sql, livemode)
  const applying = { database, reader: createStripeReader(stripe), livemode, now, log }
  /** Nobody reads the log of every night. */
  const warnOfNight = (details: Record<string, unknown>) => {
    const about = { type: 'stripe_reconcile_incomplete', severity: 'medium', ip: null } as const
    const dedupeKey = new Date(now()).toISOString().slice(0, 10)
    return warn({ ...about, details, dedupeKey }, { database, log })
  }
  /** Each by name: somebody has to cancel them by hand, since they may be those of another deployment. */
  const warnOfOwnerless = async (unrepaired: Reconciled['unrepaired']) => {
    const owed = unrepaired.filter(({ object, why }) => object === 'subscription' && why === 'unknown_customer')
    const about = { type: 'stripe_subscription_of_nobody', severity: 'high', ip: null } as const
    for (const { id, customer_id } of owed.slice(0, namedAtMost))
      await warn({ ...about, details: { subscription_id: id, customer_id }, dedupeKey: id }, { database, log })
  }
  return {
    applyEvents: (): Promise<AppliedCounts> => applyEvents(applying, applyingMs),
    changeStripe: (): Promise<ChangeCounts> => changeStripe({ database, stripe, livemode, now, log }),
    /** The lists are for the log, which takes no thousands of lines; `npm run stripe:reconcile` shows all. */
    reconcile: async () => {
      const until = now() + nightlyMs
      const parts = { database, secretKey, apiUrl, days: nightlyDays, until, now, onProgress: () => {} }
      try {
        const { seen, repaired, unrepaired, foreign, is_complete } = await reconcileWithStripe(parts)
        await warnOfOwnerless(unrepaired)
        await database.endSubscriptionsOfDeleted()
        const counts = { seen, repaired: repaired.length, foreign, is_complete }
        if (unrepaired.length > 0 || !is_complete) await warnOfNight({ ...counts, unrepaired: unrepaired.length })
        return { ...counts, unrepaired: unrepaired.slice(0, namedAtMost) }
      } catch (error) {
        await warnOfNight({ is_complete: false, error: describeFailure(error) })
        throw error
      }
    },
  }
}

/** `days` null: everything there ever was. */
export function reconcileWithStripe({
  database,
  secretKey,
  apiUrl,
  days,
  ...rest
}: Pick<Parts, 'secretKey' | 'apiUrl' | 'now'> & {
  database: BillingDatabase
  days: number | null
  until: number
  onProgress(kind: Kind, seen: number): void
}): Promise<Reconciled> {
  const stripe = createStripe(secretKey, apiUrl, { isPatient: true })
  const since = days === null ? null : rest.now() - days * 86_400_000
  return reconcile({
    ...rest,
    listings: listings(stripe, since === null ? undefined : Math.floor(since / 1000)),
    ...{ reader: createStripeReader(stripe), database, livemode: isLiveKey(secretKey) },
    since: since === null ? null : new Date(since).toISOString(),
  })
}
