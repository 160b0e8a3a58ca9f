/** /admin/users/ID/factors: what an administrator sees, changes and removes of an account's factors. */
import { z } from 'zod'
import { requireAdmin, requireUser, validPhone } from './admin.ts'
import { readForm, text } from './forms.ts'
import { type FactorRow, nameTaken, requireFactor } from './mfa.ts'
import { factorsOf } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

/** Never with their secrets. */
export async function listFactors(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  return Response.json(await world.sql.begin(async (tx) => factorsOf(tx, (await requireUser(tx, params[0])).id)))
}

const factorForm = z.object({ friendly_name: text, phone: text })

export async function changeFactor(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  const { friendly_name: name, phone } = readForm(call, factorForm)
  const body = await world.sql.begin(async (tx) => {
    const { id } = await requireUser(tx, params[0])
    const factor = await requireFactor(tx, id, params[1])
    const others = (await factorsOf(tx, id)).filter((one) => one.id !== factor.id)
    if (name && others.some(({ friendly_name }) => friendly_name === name)) throw nameTaken(name)
    const number = phone && factor.factor_type === 'phone' ? validPhone(phone) : null
    await tx`
      update auth.mfa_factors
      set friendly_name = coalesce(${name || null}, friendly_name), phone = coalesce(${number}, phone),
        updated_at = ${world.now()}
      where id = ${factor.id}`
    return shown(tx, await requireFactor(tx, id, factor.id))
  })
  return Response.json(body)
}

/** As in the real service, sessions keep the assurance they have; to end it, sign the user out. */
export async function deleteFactor(world: AuthWorld, call: AuthCall, params: string[]): Promise<Response> {
  requireAdmin(call)
  const body = await world.sql.begin(async (tx) => {
    const user = await requireUser(tx, params[0])
    const factor = await requireFactor(tx, user.id, params[1])
    const json = await shown(tx, factor)
    await tx`delete from auth.mfa_factors where id = ${factor.id}`
    return json
  })
  return Response.json(body)
}

const shown = async (tx: Db, { id, user_id }: FactorRow) =>
  (await factorsOf(tx, user_id)).find((factor) => factor.id === id)
