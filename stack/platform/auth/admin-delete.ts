/** DELETE /admin/users/:id: the row goes, or stays without anything that says whose it was. */
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { requireAdmin, requireUser } from './admin.ts'
import { AuthProblem, unexpected } from './errors.ts'
import { nothing, readForm } from './forms.ts'
import type { UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const form = z.object({ should_soft_delete: z.boolean().nullish() })

export async function deleteUser(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  const { should_soft_delete } = readForm(call, form)
  try {
    await world.sql.begin(async (tx) => {
      const user = await requireUser(tx, params[0])
      if (!should_soft_delete) await tx`delete from auth.users where id = ${user.id}`
      else if (!user.deleted_at) await empty(tx, world, user)
    })
  } catch (error) {
    if (error instanceof AuthProblem) throw error
    world.log(`auth: deleting a user: ${error instanceof Error ? error.message : error}`)
    const problem = unexpected('Database error deleting user')
    problem.cause = error
    throw problem
  }
  return nothing()
}

/** The same address of another account gives another hash. */
const obscured = (user: UserRow, address: string) =>
  createHash('sha256').update(`${user.id}${address}`).digest('base64url')

/** Whoever signs up with the address again gets a new account. */
async function empty(tx: Db, world: AuthWorld, user: UserRow): Promise<void> {
  const now = world.now()
  const email = user.email && obscured(user, user.email)
  const phone = user.phone && obscured(user, user.phone).slice(0, 15)
  await tx`
    update auth.users
    set email = ${email}, phone = ${phone}, email_change = '', phone_change = '', encrypted_password = null,
      raw_user_meta_data = '{}', raw_app_meta_data = '{}', deleted_at = ${now}, updated_at = ${now}
    where id = ${user.id}`
  await tx`
    update auth.identities
    set provider_id = ${obscured(user, user.id)}, identity_data = '{}', updated_at = ${now}
    where user_id = ${user.id}`
  await tx`delete from auth.one_time_tokens where user_id = ${user.id}`
  await tx`delete from auth.mfa_factors where user_id = ${user.id}`
  await tx`delete from auth.sessions where user_id = ${user.id}`
}
