/**
 * The SQL behind billing: the inbox of Stripe's events, readings, checkouts and what we sell. What is new, whose turn it is, who may
 * buy what and what an event changes is decided there; this only carries it.
 */
import { z } from 'zod'
import type { Asker } from '../auth/identify-caller.ts'
import { createBatches, isOnesFault } from '../batch-calls.ts'
import { answer, callSql, type Database, nothing, type Queries } from '../db.ts'
import { describeFailure } from '../failure.ts'
import type { Kind, Reading } from './readings.ts'

export type BillingDatabase = ReturnType<typeof createBillingDatabase>

/** An event as Stripe sent it; `payload` is its text, so that no number in it loses a digit. */
export type ReceivedEvent = {
  id: string
  type: string
  api_version: string | null
  livemode: boolean
  account: string | null
  /** Unix seconds. */
  created: number
  object: string | null
  object_id: string | null
  payload: string
}

export type SecurityEvent = {
  type:
    | 'stripe_signature_invalid'
    | 'stripe_livemode_mismatch'
    | 'stripe_api_version'
    | 'stripe_reconcile_incomplete'
    | 'stripe_subscription_of_nobody'
    | 'stripe_refuses_checkout'
    | 'stripe_refuses_portal'
    | 'stripe_refuses_resume'
  severity: 'medium' | 'high'
  details: Record<string, unknown>
  /** The same within an hour counts up one event. */
  dedupeKey: string
  ip: string | null
}

/** A warning that cannot be written must not cost what it is about. */
export async function warn(
  event: SecurityEvent,
  { database, log }: { database: BillingDatabase; log(line: Record<string, unknown>): void },
): Promise<void> {
  try {
    await database.raiseSecurityEvent(event)
  } catch (error) {
    const line = { message: 'a security event was not written', type: event.type }
    log({ level: 'error', ...line, cause: describeFailure(error) })
  }
}

const claimedEvents = z.array(
  z.object({
    id: z.string(),
    type: z.string(),
    attempt: z.int(),
    object: z.string().nullable(),
    object_id: z.string().nullable(),
    account: z.string().nullable(),
    payload: z.unknown(),
  }),
)
export type ClaimedEvent = z.infer<typeof claimedEvents>[number]
/** One attempt at an event. */
type Attempt = Pick<ClaimedEvent, 'id' | 'attempt'>

/** What a reading came to: same, changed, older, unknown_customer or mismatch. */
const readingOutcomes = z.array(z.object({ object: z.string(), id: z.string(), outcome: z.string() }))
export type ReadingOutcome = z.infer<typeof readingOutcomes>[number]

/** Something to do at Stripe for a customer; `wanted` of a cancellation only, `email` where the user has a confirmed one. */
const claimedChanges = z.array(
  z.object({
    customer_id: z.string(),
    kind: z.enum(['cancellation', 'email', 'resumption']),
    wanted: z.enum(['now', 'period_end', 'undo']).nullable(),
    email: z.string().nullable(),
    /** Whose turn it is. */
    turn: z.coerce.bigint(),
  }),
)
export type ClaimedChange = z.infer<typeof claimedChanges>[number]

/** By our own ids: exactly one of the two. */
export type Wanted = {
  plan_price: string | null
  credit_pack: string | null
  return_urls: { success_url: string; cancel_url: string }
}

const preparedCheckout = z.object({
  checkout_id: z.guid(),
  customer_id: z.string().nullable(),
  /** The idempotency key to make a customer with. */
  customer_key: z.string(),
  stripe_price_id: z.string(),
  mode: z.enum(['payment', 'subscription']),
  trial_days: z.int(),
  /** Set when a session was made for it already. */
  url: z.string().nullable(),
  /** Sessions of checkouts that were given up; nobody may complete them any more. */
  stale_sessions: z.array(z.string()),
  /** Unix seconds. */
  expires_at: z.int(),
})
export type PreparedCheckout = z.infer<typeof preparedCheckout>

/** A plan's price or a credit pack, as our rows have it. Amounts in the currency's smallest unit. */
export const items = z.array(
  z.object({
    kind: z.enum(['plan_price', 'credit_pack']),
    id: z.string(),
    /** The product's id at Stripe, which is ours to choose: the same for all prices of one plan. */
    product_id: z.string(),
    product_name: z.string(),
    amount: z.coerce.number().int().max(Number.MAX_SAFE_INTEGER),
    currency: z.string(),
    /** Null for what is paid once. */
    interval: z.enum(['month', 'year']).nullable(),
    enabled: z.boolean(),
  }),
)
export type Item = z.infer<typeof items>[number]

/** As text, since a deployment also sends it where there is no connection. */
export const itemsQuery = `
  select 'plan_price' as kind, p.id, 'palisade_plan_' || l.id as product_id, l.name as product_name,
    p.amount, p.currency, p.interval, p.enabled
  from public.plan_prices p join public.plans l on l.id = p.plan_id
  union all
  select 'credit_pack', c.id, 'palisade_pack_' || c.id, c.name, c.amount, c.currency, null, c.enabled
  from public.credit_packs c
  order by kind desc, product_id, id`

/** Batches of received events on their way. Of the five connections; the others apply what has come. */
const batchesInFlight = 3

/** `livemode` is that of the key for Stripe. */
export function createBillingDatabase(sql: Queries, livemode: boolean) {
  return {
    /** True for an event that is new. */
    receiveEvent: createBatches(batchesInFlight)(
      (events: ReceivedEvent[]) => receiveTogether(sql, events),
      isOnesFault,
    ),
    raiseSecurityEvent: async ({ type, severity, details, dedupeKey, ip }: SecurityEvent): Promise<void> => {
      await callSql(
        sql`
          select private.raise_security_event(${type}, ${severity}, null, ${JSON.stringify(details)}::text::jsonb,
            left(${dedupeKey}, 200), ${ip}::text::inet)`,
        nothing,
      )
    },
    claimEvents: (limit: number) => callSql(sql`select * from private.claim_stripe_events(${limit})`, claimedEvents),
    /**
     * What was read at about the same time is applied by one statement, and when that fails each on its own. One at a time: events
     * of one customer would only wait for each other's lock.
     */
    applyEvent: createBatches(1)(
      (events: (Attempt & { readings: Reading[] })[]) => applyTogether(sql, events),
      isOnesFault,
    ),
    failEvent: ({ id, attempt }: Attempt, why: string) =>
      callSql(
        sql`select private.fail_stripe_event(${id}, ${attempt}, ${why}) as answer`,
        answer(z.enum(['waiting', 'dead', 'superseded'])),
      ),

    /** The database's clock, as ISO. */
    databaseTime: () => callSql(sql`select to_json(clock_timestamp()) #>> '{}' as answer`, answer(z.string())),
    applyReadings: (readings: Reading[]) => applyReadings(sql, readings),
    /** The ids of one kind of object that we have and that were made since a time (ISO), or are open. Null: all. */
    knownObjects: async (kind: Kind, since: string | null): Promise<string[]> => {
      const rows = await callSql(
        sql`
          select id from private.known_stripe_objects(${kind}, ${since}::text::timestamptz) union ${open(sql)[kind]}`,
        z.array(z.object({ id: z.string() })),
      )
      return rows.map(({ id }) => id)
    },

    prepareCheckout: ({ userId, sessionId }: Asker, { plan_price, credit_pack, return_urls }: Wanted) =>
      callSql(
        sql`
          select private.prepare_checkout(${userId}, ${sessionId}, ${plan_price}, ${credit_pack}, ${livemode},
            ${JSON.stringify(return_urls)}::text::jsonb) as answer`,
        answer(preparedCheckout),
      ),
    preparePortal: ({ userId, sessionId }: Asker) =>
      callSql(sql`select private.prepare_portal(${userId}, ${sessionId}, ${livemode}) as answer`, answer(z.string())),
    /** The customer that counts, which is another when somebody was faster. */
    linkCustomer: (userId: string, customerId: string) =>
      callSql(
        sql`select private.link_stripe_customer(${userId}, ${customerId}, ${livemode}) as answer`,
        answer(z.string()),
      ),
    /** False when the checkout was given up meanwhile. */
    noteCheckout: (checkoutId: string, sessionId: string, url: string) =>
      callSql(sql`select private.note_checkout(${checkoutId}, ${sessionId}, ${url}) as answer`, answer(z.boolean())),
    /** Stripe answered an error, and would again: the next try gets other idempotency keys. */
    failCheckout: async (checkoutId: string): Promise<void> => {
      await callSql(sql`select private.fail_checkout(${checkoutId})`, nothing)
    },
    /** The one that the user has confirmed. */
    emailOf: (userId: string) =>
      callSql(sql`select private.confirmed_email(${userId}) as answer`, answer(z.string().nullable())),

    claimChanges: (limit: number) =>
      callSql(sql`select * from private.claim_stripe_changes(${livemode}, ${limit})`, claimedChanges),
    /** Without `why` it is done. `subscriptions` are those that it is about. */
    finishChange: ({ customer_id, kind, turn }: ClaimedChange, why: string | null, subscriptions: string[] | null) =>
      callSql(
        sql`
          select private.finish_stripe_change(${customer_id}, ${kind}, ${String(turn)}::text::bigint, ${why}, ${subscriptions}) as answer`,
        answer(z.enum(['done', 'waiting', 'superseded'])),
      ),
    /** Of how many customers subscriptions go on although the account is deleted; they are claimed like others. */
    endSubscriptionsOfDeleted: () =>
      callSql(sql`select private.end_subscriptions_of_deleted() as answer`, answer(z.int())),
    /** The ids of the products that are ours, in this mode. */
    ourProducts: async (): Promise<Set<string>> => {
      const rows = await callSql(
        sql`select distinct product_id from private.stripe_prices where livemode = ${livemode}`,
        z.array(z.object({ product_id: z.string() })),
      )
      return new Set(rows.map(({ product_id }) => product_id))
    },

    listItems: () => callSql(sql.unsafe(itemsQuery), items),
    /** Notes which of Stripe's prices is whose. */
    setPrice: async ({ kind, id, product_id }: Item, priceId: string): Promise<void> => {
      const [plan, pack] = kind === 'plan_price' ? [id, null] : [null, id]
      await callSql(
        sql`select private.set_stripe_price(${plan}, ${pack}, ${priceId}, ${product_id}, ${livemode})`,
        nothing,
      )
    },
  }
}

/** The same, and no reading stays: each batch is taken back once it is known what it would have changed. */
export function createDryBillingDatabase(sql: Database, livemode: boolean): BillingDatabase {
  const takenBack = new Error('taken back')
  return {
    ...createBillingDatabase(sql, livemode),
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

/** One run of the catalogue at a time: waits for whoever does the same with this database. `act` has connections of its own. */
export async function alone<T>(sql: Database, act: () => Promise<T>): Promise<T> {
  const { answer } = await sql.begin(async (lock) => {
    await lock`set local idle_in_transaction_session_timeout = 0`
    await lock`select pg_advisory_xact_lock(hashtextextended('stripe:sync', 0))`
    return { answer: await act() }
  })
  return answer
}

/** Deliveries that wait together are kept by one statement, which is one commit. */
async function receiveTogether(sql: Queries, events: ReceivedEvent[]): Promise<boolean[]> {
  const kept = events.map(({ payload, ...about }) =>
    storable(`{"about":${JSON.stringify(about)},"payload":${payload}}`),
  )
  const isNew = await callSql(
    sql`select private.receive_stripe_events(${`[${kept.join(',')}]`}::text::jsonb) as answer`,
    answer(z.array(z.string())),
  )
  // Of one event that came twice at once the first is new.
  return events.map(({ id }, at) => isNew.includes(id) && events.findIndex((event) => event.id === id) === at)
}

async function applyTogether(sql: Queries, events: (Attempt & { readings: Reading[] })[]) {
  const told = events.map(({ id, attempt, readings }) => ({ id, attempt, readings }))
  const states = await callSql(
    sql`select private.apply_stripe_events(${JSON.stringify(told)}::text::jsonb) as answer`,
    answer(z.record(z.string(), z.enum(['applied', 'ignored', 'superseded']))),
  )
  return events.map(({ id }) => states[id] ?? 'superseded')
}

/**
 * JSON whose texts jsonb holds. It takes neither a NUL nor half of a surrogate pair, which JSON may write as escapes, and an
 * event with one in a name must not be refused for ever: each becomes the replacement character.
 */
const storable = (json: string): string =>
  json.replace(escapes, (whole, unstorable?: string) => (unstorable ? '\\ufffd' : whole))

/** One escape at a time, a surrogate pair and an escaped backslash as a whole; what jsonb refuses is in the group. */
const escapes = /\\(?:ud[89ab][\da-f]{2}\\ud[c-f][\da-f]{2}|(u0000|ud[89a-f][\da-f]{2})|.)/gi

/** Readings without an event: of reconciliation, and of what turned out while somebody was buying. */
const applyReadings = (sql: Queries, readings: Reading[]): Promise<ReadingOutcome[]> =>
  callSql(sql`select * from private.apply_stripe_readings(${JSON.stringify(readings)}::text::jsonb)`, readingOutcomes)

/** What may still change, however old it is. Of customers nothing does, and that a credit note became void comes as an event. */
const open = (sql: Queries) => ({
  subscription: sql`select id from public.subscriptions where status not in ('canceled', 'incomplete_expired')`,
  invoice: sql`select id from public.payments where kind = 'subscription' and status = 'open'`,
  checkout_session: sql`select id from public.payments where kind = 'credit_pack' and status = 'processing'`,
  refund: sql`select id from public.refunds where status in ('pending', 'requires_action')`,
  dispute: sql`select id from public.disputes where status not in ('won', 'lost', 'warning_closed', 'prevented')`,
  customer: sql`select id from private.stripe_customers where false`,
  credit_note: sql`select id from private.stripe_objects where false`,
})
