/** What billing needs from outside: the inbox and its effects in SQL, Stripe, the clock. The index.ts make real ones, tests others. */
import type { Subject } from './read-objects.ts'
import type { Reading } from './reading.ts'
import type { StripeReader } from './stripe-reader.ts'

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
  type: 'stripe_signature_invalid' | 'stripe_livemode_mismatch' | 'stripe_api_version' | 'stripe_reconcile_incomplete'
  severity: 'medium' | 'high'
  details: Record<string, unknown>
  /** The same within an hour counts up one event. */
  dedupeKey: string
  ip: string | null
}

export type ClaimedEvent = Subject & { id: string; attempt: number; account: string | null }

export type Applied = 'applied' | 'ignored' | 'superseded'
export type Failed = 'waiting' | 'dead' | 'superseded'

export type InboxWorld = {
  /** True for an event that is new. */
  receive(event: ReceivedEvent): Promise<boolean>
  raise(event: SecurityEvent): Promise<void>
}

export type ApplyWorld = {
  claim(limit: number): Promise<ClaimedEvent[]>
  /** The database's clock, as ISO. */
  databaseTime(): Promise<string>
  apply(event: ClaimedEvent, readings: Reading[]): Promise<Applied>
  fail(event: ClaimedEvent, error: string): Promise<Failed>
  reader: StripeReader
  livemode: boolean
  /** Epoch milliseconds. */
  now(): number
  log(line: Record<string, unknown>): void
}
