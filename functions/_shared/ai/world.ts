/** What the AI endpoint needs from outside. index.ts makes it from the environment; tests make their own. */
import type { UserCaller } from '../auth/verify-user-token.ts'
import type {
  Admission,
  AdmissionRequest,
  AnonymousVerdict,
  AttemptReport,
  LedgerCaller,
  ModelList,
  Outcome,
  Settlement,
} from './ledger-contract.ts'

export type LogLine = Record<string, unknown>

export type AiWorld = {
  verifyUserToken(token: string): Promise<UserCaller>
  admit(request: AdmissionRequest): Promise<Admission>
  start(callId: string): Promise<void>
  settle(callId: string, outcome: Outcome): Promise<Settlement>
  listModels(caller: LedgerCaller): Promise<ModelList>
  /** Tells the breaker, which all processes share, how askings of providers went. */
  reportAttempts(reports: AttemptReport[]): Promise<void>
  /** When this process last reported that a provider's model is well. */
  lastWell: Map<string, number>
  /** Counts a request without a valid token or key against the address it came from. */
  countAnonymous(ip: string, route: string): Promise<AnonymousVerdict>
  /** Tells a key's owner that somebody used it without a valid signature. */
  reportSignatureFailure(keyHash: string, ip: string | null): Promise<void>
  /** The secret that a provider's `api_key_secret` names. */
  providerKey(name: string): Promise<string | undefined>
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
