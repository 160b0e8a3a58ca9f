import type { Caller } from '../auth/identify-caller.ts'
import { clientAddress } from '../http/client-address.ts'
import type { LedgerCaller } from './ledger-contract.ts'
import { readSignature } from './read-signature.ts'

/** A caller in the words of the SQL functions, which decide what the token or key is worth at this moment. */
export function ledgerCaller(caller: Caller, headers: Headers, body: Uint8Array<ArrayBuffer>): LedgerCaller {
  const ip = clientAddress(headers)
  return caller.kind === 'user'
    ? { user_id: caller.userId, session_id: caller.sessionId, ip }
    : { api_key_hash: caller.keyHash, signature: readSignature(headers, body), ip }
}
