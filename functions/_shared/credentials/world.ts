/** What the credentials endpoint needs from outside. index.ts makes it from the environment; tests make their own. */
import type { UserCaller } from '../auth/verify-user-token.ts'
import type { Encrypted } from './encrypt-transfer.ts'

/** What a caller gives; never logged, never answered. */
export type Secrets = { api_key: string; api_secret?: string | undefined; passphrase?: string | undefined }

/** Whose key it is: an AI provider of ours, or an exchange, whose address is null when it is the exchange's own. */
export type Target =
  | { kind: 'ai_provider'; provider: string; baseUrl: string }
  | { kind: 'exchange'; provider: string; baseUrl: string | null }

/** A word that the owner sees as `status_reason` (null: the key works), and a sentence about it. */
export type KeyTest = { reason: string | null; message: string | null; permissions: string[] }

export type Opened =
  | { opened: true; version: number; fields: Secrets }
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
    place: { id: string } | { target: Target; name: string },
  ): Promise<{ id: string; version: number }>
  open(id: string, purpose: 'test', requestId: string): Promise<Opened>
  /** `version` is that of the key that was tested. */
  noteTest(id: string, version: number, test: KeyTest): Promise<void>
  /** Undefined when there is no such AI provider or exchange here. */
  findTarget(kind: Target['kind'], provider: string): Promise<Target | undefined>
  /** Whose key a credential of this user's is; of anybody else's, undefined. */
  placeOf(id: string, userId: string): Promise<Pick<Target, 'kind' | 'provider'> | undefined>
  fetch: typeof fetch
  /** Epoch milliseconds. */
  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}
