/** Compares Stripe with what we have, repairs what differs and says what it cannot repair. */
import Stripe from 'stripe'
import { describeFailure } from '../failure.ts'
import type { BillingDatabase, ReadingOutcome } from './billing-database.ts'
import { type Kind, makeReading, type Reading } from './readings.ts'
import { type Listing, type StripeReader, settleEach } from './stripe-reader.ts'
import type { Origin } from './stripe-shapes.ts'

type Difference = { object: Kind; id: string; why: string; customer_id?: string | null }
export type Reconciled = {
  seen: number
  repaired: Difference[]
  unrepaired: Difference[]
  /** Objects of customers that are not ours; another product may sell with the same account. */
  foreign: number
  /** False when the time was over before everything was seen, or Stripe would not give a list to its end. */
  is_complete: boolean
}
export type ReconcileWorld = {
  listings: Listing[]
  reader: StripeReader
  database: BillingDatabase
  livemode: boolean
  /** What we have is compared when it was made since then (ISO), or is open; null: all of it. */
  since: string | null
  /** Epoch milliseconds after which no page is begun. Each listing has its share of the time, and what others left of theirs. */
  until: number
  now(): number
  onProgress(kind: Kind, seen: number): void
}

const fetchedAtOnce = 10
const dayMs = 86_400_000
const goldenRatio = 0.618_033_988_749_895

/**
 * Objects are in memory a page at a time; of all that were listed it keeps the ids, until what we have of their kind is compared.
 *
 * One thing that fails is said, and stops no other. Only a key that is refused, or a Stripe that is out of reach, ends it all:
 * everything would fail alike.
 */
export async function reconcile(world: ReconcileWorld): Promise<Reconciled> {
  const result: Reconciled = { seen: 0, repaired: [], unrepaired: [], foreign: 0, is_complete: true }
  const listed = new Map(world.listings.map(({ kind }) => [kind, new Set<string>()]))
  const of = (kind: Kind) => listed.get(kind) ?? new Set<string>()
  const parts = [
    ...world.listings.map(
      (listing) => (part: ReconcileWorld) => compareListed(listing, of(listing.kind), part, result),
    ),
    ...[...listed.keys()].map((kind) => async (part: ReconcileWorld) => {
      await compareKnown(kind, of(kind), part, result)
      listed.delete(kind)
    }),
  ]
  for (const [place, compareAll] of parts.entries()) {
    if (isLate(world, result)) break
    const now = world.now()
    await compareAll({ ...world, until: now + (world.until - now) / (parts.length - place) })
  }
  return result
}

async function compareListed(listing: Listing, listed: Set<string>, world: ReconcileWorld, result: Reconciled) {
  let after: string | undefined
  do {
    const origin = { read_at: await world.database.databaseTime(), deleted: false }
    const page = await nextPage(listing, after, result)
    if (!page) return
    const { objects, failed = [], next } = page
    const unseen = objects.filter(({ id }) => !listed.has(id)).map((raw) => ({ id: raw.id, raw }))
    const unread = failed.filter(({ id }) => !listed.has(id))
    for (const { id } of [...unseen, ...unread]) listed.add(id)
    for (const { id, error } of unread) noteUnread(listing.kind, id, error, result)
    await compare(listing.kind, unseen, origin, world, result)
    after = next
  } while (after !== undefined && !isLate(world, result))
}

/** Undefined when Stripe does not give it: without it there is no way to the pages after it. */
async function nextPage(listing: Listing, after: string | undefined, result: Reconciled) {
  try {
    return await listing.page(after)
  } catch (error) {
    result.is_complete = false
    result.unrepaired.push({ object: listing.kind, id: '(list)', why: whyNot(error, result) })
    return undefined
  }
}

/** What Stripe did not list of what we have: it is older than the listing, or Stripe has it no more. */
async function compareKnown(kind: Kind, listed: Set<string>, world: ReconcileWorld, result: Reconciled) {
  const unlisted = (await world.database.knownObjects(kind, world.since)).filter((id) => !listed.has(id))
  // Each day begins elsewhere, so that all have their turn where there is no time for all of them.
  const first = Math.floor(((Math.floor(world.now() / dayMs) * goldenRatio) % 1) * unlisted.length)
  const turned = [...unlisted.slice(first), ...unlisted.slice(0, first)]
  for (let at = 0; at < turned.length; at += fetchedAtOnce) {
    if (at > 0 && isLate(world, result)) return
    const ids = turned.slice(at, at + fetchedAtOnce)
    const origin = { read_at: await world.database.databaseTime(), deleted: false }
    const fetched = await settleEach(ids, fetchedAtOnce, (id) => fetchObject(world.reader, kind, id))
    const found: { id: string; raw: unknown }[] = []
    for (const [place, id] of ids.entries()) {
      const one = fetched[place]
      if (!one?.ok) noteUnread(kind, id, one?.error, result)
      else if (one.value === undefined) noteLeft({ object: kind, id, why: 'resource_missing' }, result)
      else found.push({ id, raw: one.value })
    }
    await compare(kind, found, origin, world, result)
    if (fetched.every(({ ok }) => !ok) && at + fetchedAtOnce < turned.length) {
      // The next would fail as all of these did.
      result.is_complete = false
      return
    }
  }
}

/** Undefined when Stripe has it not. */
const fetchObject = (reader: StripeReader, kind: Kind, id: string): Promise<unknown> => {
  if (kind === 'checkout_session') return reader.checkoutSession(id)
  return kind === 'credit_note' ? reader.creditNote(id) : reader[kind](id)
}

/** Throws when the key is refused, or Stripe cannot be reached to begin with. */
function whyNot(error: unknown, { seen }: Reconciled): string {
  const { StripeAuthenticationError, StripeConnectionError } = Stripe.errors
  if (error instanceof StripeAuthenticationError || (error instanceof StripeConnectionError && seen === 0)) throw error
  return describeFailure(error)
}

const noteUnread = (object: Kind, id: string, error: unknown, result: Reconciled) =>
  noteLeft({ object, id, why: whyNot(error, result) }, result)

function noteLeft(difference: Difference, result: Reconciled): void {
  result.seen += 1
  result.unrepaired.push(difference)
}

function isLate({ now, until }: ReconcileWorld, result: Reconciled): boolean {
  if (now() < until) return false
  result.is_complete = false
  return true
}

async function compare(
  kind: Kind,
  objects: { id: string; raw: unknown }[],
  origin: Origin,
  world: ReconcileWorld,
  result: Reconciled,
): Promise<void> {
  const readings: Reading[] = []
  for (const { id, raw } of objects) {
    try {
      readings.push(makeReading[kind](raw, origin, world.livemode))
    } catch (error) {
      result.unrepaired.push({ object: kind, id, why: describeFailure(error) })
    }
  }
  result.seen += objects.length
  for (const { id, outcome } of await apply(readings, world.database))
    note({ object: kind, id, why: outcome }, readings, result)
  world.onProgress(kind, result.seen)
}

/** Together, and one by one when that fails, so that one object cannot hide what is wrong with others. */
async function apply(readings: Reading[], database: BillingDatabase): Promise<ReadingOutcome[]> {
  if (readings.length === 0) return []
  try {
    return await database.applyReadings(readings)
  } catch (error) {
    const [only, another] = readings
    if (only && !another) return [{ object: only.object, id: only.id, outcome: describeFailure(error) }]
    const single = []
    for (const reading of readings) single.push(...(await apply([reading], database)))
    return single
  }
}

function note(difference: Difference, readings: Reading[], result: Reconciled): void {
  const { id, why } = difference
  const reading = readings.find((one) => one.id === id)
  if (why === 'same' || why === 'older') return
  if (why === 'changed') result.repaired.push(difference)
  else if (why === 'unknown_customer' && !isOwed(reading)) result.foreign += 1
  else if (why === 'unknown_customer')
    result.unrepaired.push({ ...difference, customer_id: reading?.customer_id ?? null })
  else result.unrepaired.push(difference)
}

/** It ends with its period, as that of an account that was deleted does: nothing more is charged. */
function isEnding({ cancel_at, cancel_at_period_end, items }: Extract<Reading, { object: 'subscription' }>): boolean {
  const ends = items.map(({ current_period_end }) => current_period_end ?? 0)
  return cancel_at_period_end || (cancel_at !== null && cancel_at <= Math.min(...ends))
}

/** Somebody with our mark on it pays, and gets nothing here: the account is gone, or another customer is linked to it. */
function isOwed(reading: Reading | undefined): boolean {
  if (reading?.object === 'subscription')
    return (
      reading.user_id !== null &&
      !isEnding(reading) &&
      !['canceled', 'incomplete', 'incomplete_expired'].includes(reading.status)
    )
  return reading?.object === 'checkout_session' && reading.user_id !== null && reading.payment_status === 'paid'
}
