/** Sends a link to a user's own address and notes when, so that nobody is flooded. */
import { checkFrequency } from './forms.ts'
import { actionLink, type LinkType, writeMail } from './mails.ts'
import { type IssuedToken, issueOneTimeToken, type TokenType } from './one-time-tokens.ts'
import type { UserRow } from './users.ts'
import type { AuthWorld, Db } from './world.ts'

type Kind = { token: TokenType; sentAt: 'confirmation_sent_at' | 'recovery_sent_at' }

const kinds: Record<Exclude<LinkType, 'email_change'>, Kind> = {
  signup: { token: 'confirmation_token', sentAt: 'confirmation_sent_at' },
  invite: { token: 'confirmation_token', sentAt: 'confirmation_sent_at' },
  magiclink: { token: 'recovery_token', sentAt: 'recovery_sent_at' },
  recovery: { token: 'recovery_token', sentAt: 'recovery_sent_at' },
}

export type Link = { type: keyof typeof kinds; redirectTo: string; pkce?: boolean }

/** Makes the token of a link without sending it. */
export async function makeLink(
  tx: Db,
  world: AuthWorld,
  user: UserRow,
  link: Link,
): Promise<IssuedToken & { url: string }> {
  const { token, sentAt } = kinds[link.type]
  const address = user.email ?? ''
  const issued = await issueOneTimeToken(tx, world, {
    userId: user.id,
    type: token,
    address,
    pkce: link.pkce ?? false,
  })
  await tx`update auth.users set ${tx(sentAt)} = ${world.now()} where id = ${user.id}`
  return { ...issued, url: actionLink(world, { ...link, hash: issued.hash }) }
}

/** In the caller's transaction, mail last: what is not sent has not happened. */
export async function sendLink(tx: Db, world: AuthWorld, user: UserRow, link: Link): Promise<void> {
  checkFrequency(user[kinds[link.type].sentAt], world.now(), world.settings.email.max_frequency)
  const { otp, url } = await makeLink(tx, world, user, link)
  await world.sendMail(writeMail(user.email ?? '', link.type, otp, url))
}
