import type { Caller } from '../auth/identify-caller.ts'
import { clientAddress } from '../http/client-address.ts'
import type { LedgerCaller } from './ledger-contract.ts'

/** A caller in the words of the SQL functions, which decide what the token or key is worth at this moment. */
export const ledgerCaller = (caller: Caller, headers: Headers): LedgerCaller =>
  caller.kind === 'user'
    ? { user_id: caller.userId, session_id: caller.sessionId }
    : { api_key_hash: caller.keyHash, ip: clientAddress(headers) }
