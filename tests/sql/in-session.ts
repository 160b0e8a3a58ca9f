/** Acting as a user in a session, with claims as the Auth service signs them. */
import { type Account, asRole, type Tx } from './support.ts'

/** As the owner of a live session: what every policy of users' data asks for. */
export function inSession<T>(
  tx: Tx,
  { id, sessionId }: Account,
  act: (tx: Tx) => Promise<T>,
  { aal = 'aal1' }: { aal?: 'aal1' | 'aal2' } = {},
): Promise<T> {
  const claims = { sub: id, role: 'authenticated', aud: 'authenticated', session_id: sessionId, aal }
  return asRole(tx, 'authenticated', claims, act)
}

/** What takes a caller's access away while the token is still good, and how each is done. */
export const shutOut: [how: string, (tx: Tx, account: Account) => PromiseLike<unknown>][] = [
  ['signed out', (tx, { sessionId }) => tx`delete from auth.sessions where id = ${sessionId}`],
  ['suspended', (tx, { id }) => tx`update public.profiles set status = 'suspended' where id = ${id}`],
  [
    'without the second factor of the account',
    (tx, { id }) => tx`
      insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at)
      values (gen_random_uuid(), ${id}, 'totp', 'verified', now(), now())`,
  ],
]
