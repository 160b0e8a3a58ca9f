/** What the AI endpoint needs from outside. index.ts makes it from the environment; tests make their own. */
import type { UserCaller } from '../auth/verify-user-token.ts'
import type { Ledger } from './ledger.ts'

export type LogLine = Record<string, unknown>

export type AiWorld = {
  ledger: Ledger
  verifyUserToken(token: string): Promise<UserCaller>
  /** The secret that a provider's `api_key_secret` names. */
  providerKey(name: string): Promise<string | undefined>
  /** When this process last reported that a provider's model is well. */
  lastWell: Map<string, number>
  fetch(url: string, init: RequestInit): Promise<Response>
  waitUntil(work: Promise<unknown>): void
  sleep(ms: number): Promise<void>
  /** Waits for work, but not longer than so long. */
  within<T>(ms: number, work: Promise<T>): Promise<T | undefined>
  /** Epoch milliseconds. */
  now(): number
  /** Between 0 and 1. */
  random(): number
  newId(): string
  log(line: LogLine): void
}
