/** A change of address: asked for by PUT /user, agreed to on both addresses by links in mails. */
import { AuthProblem } from './errors.ts'
import { checkFrequency } from './forms.ts'
import { actionLink, dropOneTimeTokens, issueOneTimeToken, type TakenToken, writeMail } from './mailed-links.ts'
import { asJson, findUserById, insertEmailIdentity, type UserRow } from './users.ts'
import type { AuthWorld, Db } from './world.ts'

const types = ['email_change_token_current', 'email_change_token_new'] as const

export const emailTaken = () =>
  new AuthProblem(422, 'email_exists', 'A user with this email address has already been registered')

/** Notes the wish and sends the links: one to the new address, one to the present when both have to agree. */
export async function askForEmailChange(
  tx: Db,
  world: AuthWorld,
  user: UserRow,
  change: { email: string; redirectTo: string; pkce: boolean },
): Promise<void> {
  const now = world.now()
  const { email, redirectTo, pkce } = change
  checkFrequency(user.email_change_sent_at, now, world.settings.email.max_frequency)
  await dropOneTimeTokens(tx, user.id, [...types])
  await tx`
    update auth.users
    set email_change = ${email}, email_change_sent_at = ${now}, email_change_confirm_status = 0, updated_at = ${now}
    where id = ${user.id}`
  const asksCurrent = world.settings.email.double_confirm_changes && user.email
  for (const [type, address] of [
    ...(asksCurrent ? [[types[0], user.email ?? ''] as const] : []),
    [types[1], email] as const,
  ]) {
    const { otp, hash } = await issueOneTimeToken(tx, world, { userId: user.id, type, address, pkce })
    await world.sendMail(
      writeMail(address, 'email_change', otp, actionLink(world, { type: 'email_change', hash, redirectTo })),
    )
  }
}

/** One address agrees. Null: the other has still to; otherwise the user with the new address. */
export async function confirmEmailChange(
  tx: Db,
  world: AuthWorld,
  user: UserRow,
  taken: TakenToken,
): Promise<UserRow | null> {
  const isCurrent = taken.relates_to === user.email && taken.token_type === types[0]
  const isNew = taken.relates_to === user.email_change && taken.token_type === types[1]
  if (!user.email_change || !(isCurrent || isNew)) {
    throw new AuthProblem(403, 'otp_expired', 'Email link is invalid or has expired')
  }
  const both = world.settings.email.double_confirm_changes && user.email
  if (both && user.email_change_confirm_status === 0) {
    await tx`
      update auth.users set email_change_confirm_status = 1, updated_at = ${world.now()} where id = ${user.id}`
    return null
  }
  await changeEmail(tx, world, user, user.email_change)
  return (await findUserById(tx, user.id)) ?? null
}

/** Writes the new, proven address wherever the old one stood. */
export async function changeEmail(tx: Db, world: AuthWorld, user: UserRow, email: string): Promise<void> {
  const now = world.now()
  const facts = asJson(tx, { email, email_verified: true })
  const [taken] = await tx`select from auth.users where email = ${email} and not is_sso_user and id <> ${user.id}`
  if (taken) throw emailTaken()
  await dropOneTimeTokens(tx, user.id, [...types, 'confirmation_token', 'recovery_token', 'reauthentication_token'])
  const provider = asJson(tx, user.is_anonymous ? { provider: 'email', providers: ['email'] } : {})
  await tx`
    update auth.users
    set email = ${email}, email_change = '', email_change_confirm_status = 0, is_anonymous = false,
      email_confirmed_at = coalesce(email_confirmed_at, ${now}), updated_at = ${now},
      raw_user_meta_data = coalesce(raw_user_meta_data, '{}') || ${facts},
      raw_app_meta_data = coalesce(raw_app_meta_data, '{}') || ${provider}
    where id = ${user.id}`
  const rows = await tx`
    update auth.identities set identity_data = identity_data || ${facts}, updated_at = ${now}
    where user_id = ${user.id} and provider = 'email' returning id`
  if (rows.length === 0) await insertEmailIdentity(tx, user.id, email, true, now)
}
