/** What the AI endpoint needs from outside. index.ts makes it from the environment; tests make their own. */
import type { VerifyUserToken } from '../auth/verify-user-token.ts'
import type { Wheel } from '../wheel.ts'
import type { within } from '../within.ts'
import type { AskProvider } from './ask-provider.ts'
import type { Room } from './body-room.ts'
import type { AnonymousVerdict, Ledger } from './ledger.ts'
import type { ProviderKeys } from './provider-keys.ts'
import type { createMarks } from './watch-call.ts'

export type LogLine = Record<string, unknown>

export type AiWorld = {
  ledger: Ledger
  verifyUserToken: VerifyUserToken
  /** The secret that a provider's `api_key_secret` names. */
  providerKey: ProviderKeys
  /** When this process last reported that a provider's model is well. */
  lastWell: Map<string, number>
  /** When this process last told the operator of something at a provider. */
  lastAlarm: Map<string, number>
  /** What the ledger last said of keys, by their hashes: for a moment only, since it alone decides what a key is worth. */
  judgedKeys: Map<string, { exists: boolean; until: number }>
  /** Bodies that were no JSON, of the running minute, by user or key. */
  unreadable: Map<string, { count: number; until: number }>
  /** Networks over their limit, as the ledger's `countAnonymous` notes them. */
  blocked: Map<string, { until: number; verdict: AnonymousVerdict }>
  ask: AskProvider
  /** The timer of all deadlines. */
  wheel: Wheel
  /** For large bodies. */
  room: Room
  /** Tells the ledger of streams that have begun. */
  marks: ReturnType<typeof createMarks>
  waitUntil(work: Promise<unknown>): void
  sleep(ms: number): Promise<void>
  within: typeof within
  /** Epoch milliseconds. */
  now(): number
  /** Milliseconds of a clock that nobody sets, for how long something takes. */
  ticks(): number
  /** Between 0 and 1. */
  random(): number
  newId(): string
  log(line: LogLine): void
}
