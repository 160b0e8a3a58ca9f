/** What the AI endpoint needs from outside. index.ts makes it from the environment; tests make their own. */
import type { UserCaller } from '../auth/verify-user-token.ts'
import type { Admission, AdmissionRequest, LedgerCaller, ModelList, Outcome, Settlement } from './ledger-contract.ts'

export type LogLine = Record<string, unknown>

export type AiWorld = {
  verifyUserToken(token: string): Promise<UserCaller>
  admit(request: AdmissionRequest): Promise<Admission>
  start(callId: string): Promise<void>
  settle(callId: string, outcome: Outcome): Promise<Settlement>
  listModels(caller: LedgerCaller): Promise<ModelList>
  /** The secret that a provider's `api_key_secret` names. */
  providerKey(name: string): string | undefined
  fetch(url: string, init: RequestInit): Promise<Response>
  waitUntil(work: Promise<unknown>): void
  sleep(ms: number): Promise<void>
  /** Epoch milliseconds. */
  now(): number
  newId(): string
  log(line: LogLine): void
}
