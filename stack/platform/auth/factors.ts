/** Rows of auth.mfa_factors. The secret is read to verify a code, and by nothing else. */
import { z } from 'zod'
import { AuthProblem } from './errors.ts'
import type { FactorJson } from './users.ts'
import type { AuthWorld, Db } from './world.ts'

export type FactorRow = FactorJson & { user_id: string }

const uuid = z.uuid()

/** A path's id, or the refusal that names it. */
export function pathId(name: 'user_id' | 'factor_id', id: string | undefined): string {
  if (uuid.safeParse(id).success) return id ?? ''
  throw new AuthProblem(404, 'validation_failed', `${name} must be an UUID`)
}

export const isUuid = (id: string) => uuid.safeParse(id).success

/** A user's own factor; somebody else's is not there. */
export async function requireFactor(tx: Db, userId: string, factorId: string | undefined): Promise<FactorRow> {
  const id = pathId('factor_id', factorId)
  const [row] = await tx<FactorRow[]>`
    select id, user_id, created_at, updated_at, status, friendly_name, factor_type, phone, last_challenged_at
    from auth.mfa_factors where id = ${id} and user_id = ${userId}`
  if (!row) throw new AuthProblem(404, 'mfa_factor_not_found', 'Factor not found')
  return row
}

export async function secretOf(tx: Db, factorId: string): Promise<string> {
  const [row] = await tx<{ secret: string }[]>`select secret from auth.mfa_factors where id = ${factorId}`
  if (!row?.secret) throw new Error('a TOTP factor without a secret')
  return row.secret
}

export const nameTaken = (name: string) =>
  new AuthProblem(
    422,
    'mfa_factor_name_conflict',
    `A factor with the friendly name "${name}" for this user already exists`,
  )

/** Removes a factor, and the assurance of the sessions that it has raised. */
export async function removeFactor(tx: Db, world: AuthWorld, factor: FactorRow): Promise<void> {
  await tx`
    delete from auth.mfa_amr_claims c using auth.sessions s
    where c.session_id = s.id and s.factor_id = ${factor.id} and c.authentication_method = ${factor.factor_type}`
  await tx`
    update auth.sessions set aal = 'aal1', factor_id = null, updated_at = ${world.now()} where factor_id = ${factor.id}`
  await tx`delete from auth.mfa_factors where id = ${factor.id}`
}
