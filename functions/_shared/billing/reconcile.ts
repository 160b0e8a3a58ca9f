/** Compares Stripe with what we have, repairs what differs and says what it cannot repair. */
import { describeFailure } from './describe-failure.ts'
import type { Listing } from './list-objects.ts'
import type { Reading } from './reading.ts'
import type { ReadingOutcome, ReadingStore } from './reading-database.ts'
import { fetchObject, type Kind, makeReading } from './reading-kinds.ts'
import type { StripeReader } from './stripe-reader.ts'

export type Difference = { object: Kind; id: string; why: string }
export type Reconciled = {
  seen: number
  repaired: Difference[]
  unrepaired: Difference[]
  /** Objects of customers that are not ours; another product may sell with the same account. */
  foreign: number
  /** False when the time was over before everything was seen. */
  is_complete: boolean
}
export type ReconcileWorld = {
  listings: Listing[]
  reader: StripeReader
  store: ReadingStore
  livemode: boolean
  /** What we have is compared when it was made since then (ISO), or is open; null: all of it. */
  since: string | null
  /** Epoch milliseconds after which no page is begun. */
  until: number
  now(): number
  onProgress(kind: Kind, seen: number): void
}

const fetchedAtOnce = 10

export async function reconcile(world: ReconcileWorld): Promise<Reconciled> {
  const result: Reconciled = { seen: 0, repaired: [], unrepaired: [], foreign: 0, is_complete: true }
  const listed = new Set<string>()
  for (const listing of world.listings) await compareListed(listing, listed, world, result)
  for (const kind of new Set(world.listings.map((listing) => listing.kind))) {
    await compareKnown(kind, listed, world, result)
  }
  return result
}

async function compareListed(listing: Listing, listed: Set<string>, world: ReconcileWorld, result: Reconciled) {
  let after: string | undefined
  do {
    if (isLate(world, result)) return
    const origin = { read_at: await world.store.databaseTime(), deleted: false }
    const { objects, next } = await listing.page(after)
    const unseen = objects.filter(({ id }) => !listed.has(id)).map((raw) => ({ id: raw.id, raw }))
    for (const { id } of unseen) listed.add(id)
    await compare(listing.kind, unseen, origin, world, result)
    after = next
  } while (after !== undefined)
}

/** What Stripe did not list of what we have: it is older than the listing, or Stripe has it no more. */
async function compareKnown(kind: Kind, listed: Set<string>, world: ReconcileWorld, result: Reconciled) {
  const unlisted = (await world.store.knownObjects(kind, world.since)).filter((id) => !listed.has(id))
  for (let at = 0; at < unlisted.length; at += fetchedAtOnce) {
    if (isLate(world, result)) return
    const ids = unlisted.slice(at, at + fetchedAtOnce)
    const origin = { read_at: await world.store.databaseTime(), deleted: false }
    const found = await Promise.all(ids.map(async (id) => ({ id, raw: await fetchObject(world.reader, kind, id) })))
    for (const { id, raw } of found) {
      if (raw !== undefined) continue
      result.seen += 1
      result.unrepaired.push({ object: kind, id, why: 'resource_missing' })
    }
    await compare(
      kind,
      found.filter(({ raw }) => raw !== undefined),
      origin,
      world,
      result,
    )
  }
}

function isLate({ now, until }: ReconcileWorld, result: Reconciled): boolean {
  if (now() < until) return false
  result.is_complete = false
  return true
}

async function compare(
  kind: Kind,
  objects: { id: string; raw: unknown }[],
  origin: { read_at: string; deleted: boolean },
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
  for (const { id, outcome } of await apply(readings, world.store))
    note({ object: kind, id, why: outcome }, readings, result)
  world.onProgress(kind, result.seen)
}

/** Together, and one by one when that fails, so that one object cannot hide what is wrong with others. */
async function apply(readings: Reading[], store: ReadingStore): Promise<ReadingOutcome[]> {
  if (readings.length === 0) return []
  try {
    return await store.applyReadings(readings)
  } catch (error) {
    const [only, another] = readings
    if (only && !another) return [{ object: only.object, id: only.id, outcome: describeFailure(error) }]
    const single = []
    for (const reading of readings) single.push(...(await apply([reading], store)))
    return single
  }
}

function note(difference: Difference, readings: Reading[], result: Reconciled): void {
  const { id, why } = difference
  if (why === 'same' || why === 'older') return
  if (why === 'changed') result.repaired.push(difference)
  else if (why === 'unknown_customer' && !isOwed(readings.find((reading) => reading.id === id))) result.foreign += 1
  else result.unrepaired.push(difference)
}

/** Somebody with our mark on it pays, and gets nothing here: the account is gone, or another customer is linked to it. */
function isOwed(reading: Reading | undefined): boolean {
  if (reading?.object === 'subscription')
    return reading.user_id !== null && !['canceled', 'incomplete', 'incomplete_expired'].includes(reading.status)
  return reading?.object === 'checkout_session' && reading.user_id !== null && reading.payment_status === 'paid'
}
