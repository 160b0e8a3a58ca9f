/** Refresh tokens, version 1: rows that point to their parent; a spent one is kept to notice its return. */
import { randomBytes } from 'node:crypto'
import type { SessionRow } from './sessions.ts'
import type { AuthWorld, Db } from './world.ts'

export type RefreshToken = {
  token: string
  session_id: string | null
  user_id: string
  parent: string | null
  revoked: boolean
  updated_at: Date
}

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567'

/** Twelve characters, 60 random bits. */
const newToken = () => [...randomBytes(12)].map((byte) => alphabet[byte % 32]).join('')

export async function findRefreshToken(tx: Db, token: string): Promise<RefreshToken | undefined> {
  const [row] = await tx<RefreshToken[]>`
    select token, session_id, user_id, parent, coalesce(revoked, false) as revoked, updated_at
    from auth.refresh_tokens where token = ${token}`
  return row
}

/** The one token of a session that may be used. */
export async function activeRefreshToken(tx: Db, sessionId: string): Promise<RefreshToken | undefined> {
  const [row] = await tx<RefreshToken[]>`
    select token, session_id, user_id, parent, coalesce(revoked, false) as revoked, updated_at
    from auth.refresh_tokens where session_id = ${sessionId} and not revoked order by created_at desc limit 1`
  return row
}

/** A token for a session that was just opened or raised; the session's earlier ones are forgotten. */
export async function issueFirstRefreshToken(tx: Db, world: AuthWorld, session: SessionRow): Promise<string> {
  await tx`delete from auth.refresh_tokens where session_id = ${session.id}`
  return insertRefreshToken(tx, world, session, null)
}

/** Spends a token and makes its child. */
export async function rotateRefreshToken(
  tx: Db,
  world: AuthWorld,
  session: SessionRow,
  parent: string,
): Promise<string> {
  await tx`
    update auth.refresh_tokens set revoked = true, updated_at = ${world.now()}
    where session_id = ${session.id} and not revoked`
  return insertRefreshToken(tx, world, session, parent)
}

/** After this no token of the session works, whoever holds it. */
export async function revokeFamily(tx: Db, world: AuthWorld, sessionId: string): Promise<void> {
  await tx`
    update auth.refresh_tokens set revoked = true, updated_at = ${world.now()}
    where session_id = ${sessionId} and not revoked`
}

async function insertRefreshToken(
  tx: Db,
  world: AuthWorld,
  session: SessionRow,
  parent: string | null,
): Promise<string> {
  const token = newToken()
  const now = world.now()
  await tx`
    insert into auth.refresh_tokens (id, token, user_id, session_id, revoked, parent, created_at, updated_at)
    values (gen_random_uuid(), ${token}, ${session.user_id}, ${session.id}, false, ${parent}, ${now}, ${now})`
  return token
}
