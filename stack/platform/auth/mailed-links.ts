/** Codes and links in mails: made, kept as a hash, mailed, spent once, and where a link leads back to. */
import { createHash, randomInt } from 'node:crypto'
import { AuthProblem } from './errors.ts'
import { checkFrequency } from './forms.ts'
import type { UserRow } from './users.ts'
import type { AuthCall, AuthMail, AuthWorld, Db } from './world.ts'

type Kind = { token: TokenType; sentAt: 'confirmation_sent_at' | 'recovery_sent_at' }

const kinds: Record<Exclude<LinkType, 'email_change'>, Kind> = {
  signup: { token: 'confirmation_token', sentAt: 'confirmation_sent_at' },
  invite: { token: 'confirmation_token', sentAt: 'confirmation_sent_at' },
  magiclink: { token: 'recovery_token', sentAt: 'recovery_sent_at' },
  recovery: { token: 'recovery_token', sentAt: 'recovery_sent_at' },
}

type Link = { type: keyof typeof kinds; redirectTo: string; pkce?: boolean }

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

/**
 * To a user's own address; when is noted, so that nobody is flooded. In the caller's transaction, mail last: what is not
 * sent has not happened.
 */
export async function sendLink(tx: Db, world: AuthWorld, user: UserRow, link: Link): Promise<void> {
  checkFrequency(user[kinds[link.type].sentAt], world.now(), world.settings.email.max_frequency)
  const { otp, url } = await makeLink(tx, world, user, link)
  await world.sendMail(writeMail(user.email ?? '', link.type, otp, url))
}

export type TokenType =
  | 'confirmation_token'
  | 'recovery_token'
  | 'email_change_token_new'
  | 'email_change_token_current'
  | 'reauthentication_token'

export type IssuedToken = { otp: string; hash: string }

/** A link that leads to a code for a client of its own, not to tokens. */
export const pkcePrefix = 'pkce_'

export const tokenHash = (address: string, otp: string) => createHash('sha224').update(`${address}${otp}`).digest('hex')

/** A new code for an address; an earlier one of the same type is void. */
export async function issueOneTimeToken(
  tx: Db,
  world: AuthWorld,
  token: { userId: string; type: TokenType; address: string; pkce?: boolean },
): Promise<IssuedToken> {
  const length = world.settings.email.otp_length
  const otp = String(randomInt(10 ** length)).padStart(length, '0')
  const hash = `${token.pkce ? pkcePrefix : ''}${tokenHash(token.address, otp)}`
  const now = world.now()
  await dropOneTimeTokens(tx, token.userId, [token.type])
  await tx`
    insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, created_at, updated_at)
    values (gen_random_uuid(), ${token.userId}, ${token.type}, ${hash}, ${token.address},
      ${now}::timestamptz at time zone 'utc', ${now}::timestamptz at time zone 'utc')`
  return { otp, hash }
}

export async function dropOneTimeTokens(tx: Db, userId: string, types: TokenType[]): Promise<void> {
  await tx`delete from auth.one_time_tokens where user_id = ${userId} and token_type = any (${types})`
}

export type TakenToken = { user_id: string; token_type: TokenType; relates_to: string }

/** Spends the token with this hash: of two callers at the same time one gets it. Undefined: unknown, spent or expired. */
export async function takeOneTimeToken(
  tx: Db,
  world: AuthWorld,
  types: TokenType[],
  hash: string,
): Promise<TakenToken | undefined> {
  const bornAfter = new Date(world.now().getTime() - world.settings.email.otp_expiry * 1000)
  const [row] = await tx<TakenToken[]>`
    delete from auth.one_time_tokens
    where token_hash = any (${[hash, `${pkcePrefix}${hash}`]}) and token_type = any (${types})
      and created_at > ${bornAfter}::timestamptz at time zone 'utc'
    returning user_id, token_type, relates_to`
  return row
}

export const tokenExpired = (message: string) => new AuthProblem(403, 'otp_expired', message)

type LinkType = 'signup' | 'invite' | 'magiclink' | 'recovery' | 'email_change'
type MailType = LinkType | 'reauthentication'

/** What happened, for a link, and for the same as a code. */
const texts: Record<MailType, { subject: string; lead: string; link: string }> = {
  signup: {
    subject: 'Confirm your e-mail address',
    lead: 'Confirm this address to finish signing up.',
    link: 'Confirm my address',
  },
  invite: { subject: 'You have been invited', lead: 'Accept the invitation to create your account.', link: 'Accept' },
  magiclink: { subject: 'Your sign-in link', lead: 'Follow this link to sign in.', link: 'Sign in' },
  recovery: {
    subject: 'Reset your password',
    lead: 'Follow this link to set a new password.',
    link: 'Reset my password',
  },
  email_change: {
    subject: 'Confirm the change of your e-mail address',
    lead: 'Confirm that the e-mail address of your account shall change.',
    link: 'Confirm the change',
  },
  reauthentication: { subject: 'Your confirmation code', lead: 'Confirm that it is you.', link: '' },
}

/** The address that a mailed link calls; it brings people back to `redirectTo`. */
export function actionLink(world: AuthWorld, link: { type: LinkType; hash: string; redirectTo: string }): string {
  const url = new URL(`${world.urls.api}/auth/v1/verify`)
  url.searchParams.set('token', link.hash)
  url.searchParams.set('type', link.type)
  url.searchParams.set('redirect_to', link.redirectTo)
  return url.href
}

const escapeHtml = (plain: string) =>
  plain.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

export function writeMail(to: string, type: MailType, otp: string, link?: string): AuthMail {
  const { subject, lead, link: label } = texts[type]
  const unasked = 'If you did not ask for this, ignore this mail.'
  const code = `Or enter the code: ${otp}`
  const only = `Your code: ${otp}`
  return {
    to,
    subject,
    text: [lead, ...(link ? [link, code] : [only]), unasked].join('\n\n'),
    html: [
      `<p>${escapeHtml(lead)}</p>`,
      ...(link
        ? [`<p><a href="${escapeHtml(link)}">${escapeHtml(label)}</a></p>`, `<p>${code}</p>`]
        : [`<p>${only}</p>`]),
      `<p>${unasked}</p>`,
    ].join('\n'),
  }
}

/** The project's site, or an address that the settings allow. */
export function redirectTarget(world: AuthWorld, call: AuthCall): string {
  const asked = call.url.searchParams.get('redirect_to') ?? ''
  return isAllowed(world, asked) ? asked : world.urls.site
}

function isAllowed(world: AuthWorld, target: string): boolean {
  if (!URL.canParse(target)) return false
  const { protocol, hostname } = new URL(target)
  const isWeb = protocol === 'http:' || protocol === 'https:'
  if (isWeb && hostname === new URL(world.urls.site).hostname) return true
  return world.settings.additional_redirect_urls.some((pattern) => globMatches(pattern, target))
}

/** `*` stands for anything but dot and slash, `**` for anything, `?` for one character that is neither. */
function globMatches(pattern: string, target: string): boolean {
  const source = pattern.replace(/\*\*|\*|\?|[.+^${}()|[\]\\]/g, (part) => {
    if (part === '**') return '.*'
    if (part === '*') return '[^./]*'
    return part === '?' ? '[^./]' : `\\${part}`
  })
  return new RegExp(`^${source}$`).test(target)
}

type Fields = Record<string, string | number>

const redirect = (url: URL) => new Response(null, { status: 303, headers: { location: url.href } })

const encode = (fields: Fields) =>
  new URLSearchParams(Object.entries(fields).map(([name, value]): [string, string] => [name, String(value)])).toString()

/** To the site with the answer after `#`, where no server sees it. */
export function redirectWithFragment(target: string, fields: Fields): Response {
  const url = new URL(target)
  url.hash = encode(fields)
  return redirect(url)
}

/** To the site with the answer in the query, for clients that exchange a code. */
export function redirectWithQuery(target: string, fields: Fields): Response {
  const url = new URL(target)
  for (const [name, value] of Object.entries(fields)) url.searchParams.set(name, String(value))
  return redirect(url)
}
