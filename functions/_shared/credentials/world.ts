/** What the credentials endpoint needs from outside. index.ts makes it from the environment; tests make their own. */
import type { UserCaller } from '../auth/verify-user-token.ts'
import type { Encrypted } from './encrypt-transfer.ts'

/** What a caller gives; never logged, never answered. */
export type Secrets = { api_key: string; api_secret?: string | undefined; passphrase?: string | undefined }

/** Why a key does not work, in a word that the owner sees as `status_reason`; null: it works. */
export type TestReason = 'wrong_key' | 'rate_limited' | 'provider_down' | null

export type Opened =
  | { opened: true; provider: string; fields: Secrets }
  | { opened: false; code: 'not_found' | 'credential_unreadable' }

export type CredentialsWorld = {
  verifyUserToken(token: string): Promise<UserCaller>
  /** These three ask in the caller's own name, with the caller's token: session, second factor and limits are decided in SQL. */
  startTransfer(token: string): Promise<{ transfer_id: string; key: string }>
  requireTest(token: string, id: string): Promise<void>
  change(token: string, id: string, name: string | null): Promise<void>
  /** As the service role. */
  save(
    transferId: string,
    content: Encrypted,
    place: { id: string } | { provider: string; name: string },
  ): Promise<string>
  open(id: string, purpose: 'test', requestId: string): Promise<Opened>
  noteTest(id: string, reason: TestReason): Promise<void>
  /** Undefined when there is no such AI provider. */
  baseUrlOf(provider: string): Promise<string | undefined>
  providerOf(id: string): Promise<string | undefined>
  fetch(url: string, init: RequestInit): Promise<Response>
  /** Epoch milliseconds. */
  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}
