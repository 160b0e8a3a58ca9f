/** POST /admin/generate_link, which sends nothing, and POST /invite, which mails. */
import { z } from 'zod'
import { merged, refuseTakenEmail, requireAdmin } from './admin.ts'
import { emailTaken } from './email-change.ts'
import { AuthProblem, invalid } from './errors.ts'
import { metadata, readForm, text, validEmail } from './forms.ts'
import {
  actionLink,
  dropOneTimeTokens,
  type IssuedToken,
  issueOneTimeToken,
  makeLink,
  redirectTarget,
  writeMail,
} from './mailed-links.ts'
import { checkStrength, hashPassword } from './passwords.ts'
import { askBeforeUserCreated, emailUser, isTakenAddress, saveNewUser, withAddress } from './sign-up.ts'
import { asJson, findUserByEmail, findUserById, lockUser, type UserRow, userJson } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const types = ['signup', 'invite', 'magiclink', 'recovery', 'email_change_current', 'email_change_new'] as const
type LinkType = (typeof types)[number]

const form = z.object({
  type: z.string().nullish(),
  email: text,
  password: text,
  new_email: text,
  data: metadata,
  redirect_to: text,
})

type Form = z.infer<typeof form>
type MadeLink = IssuedToken & { url: string }

export async function generateLink(world: AuthWorld, call: AuthCall): Promise<Response> {
  requireAdmin(call)
  const sent = readForm(call, form)
  const asked = types.find((type) => type === sent.type)
  if (!asked) throw invalid(`Invalid email action link type requested: ${sent.type ?? ''}`)
  const email = validEmail(sent.email ?? '')
  const isKnown = Boolean(await findUserByEmail(world.sql, email))
  if (!isKnown && !['signup', 'invite', 'magiclink'].includes(asked)) {
    throw new AuthProblem(404, 'user_not_found', 'User with this email not found')
  }
  const type = !isKnown && asked === 'magiclink' ? 'signup' : asked
  const newcomer = isKnown
    ? null
    : await newUserBy(world, call, email, { ...sent, type, isMagic: asked === 'magiclink' })
  const redirectTo = redirectOf(world, call, sent)
  const body = await inTransaction(world, async (tx) => {
    const user = await userFor(tx, email, newcomer)
    const link = await linkFor(tx, world, user, { type, sent, redirectTo })
    return { ...(await userJson(tx, (await findUserById(tx, user.id)) ?? user)), ...answerOf(link, type, redirectTo) }
  })
  return Response.json(body)
}

const answerOf = ({ url, otp, hash }: MadeLink, type: LinkType, redirectTo: string) => ({
  action_link: url,
  email_otp: otp,
  hashed_token: hash,
  verification_type: type,
  redirect_to: redirectTo,
})

/** The body's redirect_to counts like the query's. */
function redirectOf(world: AuthWorld, call: AuthCall, { redirect_to }: Form): string {
  if (!redirect_to) return redirectTarget(world, call)
  const url = new URL(call.url)
  url.searchParams.set('redirect_to', redirect_to)
  return redirectTarget(world, { ...call, url })
}

type Newcomer = ReturnType<typeof emailUser> & { passwordHash: string | null }
type Wanted = Pick<Form, 'password' | 'data'> & { type: LinkType; isMagic: boolean }

/** Somebody new: the project's hook is asked before any row is made. */
async function newUserBy(world: AuthWorld, call: AuthCall, email: string, wanted: Wanted): Promise<Newcomer> {
  const user = emailUser(crypto.randomUUID(), email, wanted.data ?? {}, world.now())
  if (wanted.type === 'signup' && !wanted.isMagic) {
    if (!wanted.password) throw invalid('Signup requires a valid password')
    checkStrength(world.settings, wanted.password)
  }
  // An invitation sets no password; a link to sign in with sets one that nobody knows.
  const secret = wanted.isMagic ? `${crypto.randomUUID()}${crypto.randomUUID()}` : wanted.password
  const passwordHash = wanted.type === 'signup' && secret ? await hashPassword(world.settings, secret) : null
  await askBeforeUserCreated(world, call, user)
  return { ...user, passwordHash }
}

async function userFor(tx: Db, email: string, newcomer: Newcomer | null): Promise<UserRow> {
  const found = await findUserByEmail(tx, email)
  const user = found && (await lockUser(tx, found.id))
  if (user) return user
  if (!newcomer) throw new AuthProblem(404, 'user_not_found', 'User with this email not found')
  const userMetadata = withAddress(newcomer.id, email, newcomer.userMetadata, false)
  return saveNewUser(tx, { ...newcomer, userMetadata })
}

type Ask = { type: LinkType; sent: Form; redirectTo: string }

async function linkFor(tx: Db, world: AuthWorld, user: UserRow, { type, sent, redirectTo }: Ask): Promise<MadeLink> {
  if (type === 'email_change_current' || type === 'email_change_new') {
    return changeLink(tx, world, user, { type, sent, redirectTo })
  }
  if (type === 'signup' || type === 'invite') {
    if (user.confirmed_at) throw emailTaken()
    if (type === 'signup') await addMetadata(tx, user, sent.data ?? {})
    if (type === 'invite') await tx`update auth.users set invited_at = ${world.now()} where id = ${user.id}`
  }
  return makeLink(tx, world, user, { type, redirectTo })
}

async function addMetadata(tx: Db, user: UserRow, data: Record<string, unknown>): Promise<void> {
  const metadata = asJson(tx, merged(user.raw_user_meta_data, data))
  await tx`update auth.users set raw_user_meta_data = ${metadata} where id = ${user.id}`
}

/** One half of a change of address: the link for the present address or that for the new one. */
async function changeLink(tx: Db, world: AuthWorld, user: UserRow, ask: Ask): Promise<MadeLink> {
  const isCurrent = ask.type === 'email_change_current'
  if (isCurrent && !world.settings.email.double_confirm_changes) {
    throw invalid('Enable secure email change to generate link for current email')
  }
  const email = validEmail(ask.sent.new_email ?? '')
  await refuseTakenEmail(tx, email, user.id)
  if (email === user.email) throw emailTaken()
  // Nobody has agreed to this address by a link that was made for another one.
  if (email !== user.email_change) {
    await dropOneTimeTokens(tx, user.id, ['email_change_token_current', 'email_change_token_new'])
  }
  const now = world.now()
  await tx`
    update auth.users
    set email_change = ${email}, email_change_sent_at = ${now}, email_change_confirm_status = 0, updated_at = ${now}
    where id = ${user.id}`
  const type = isCurrent ? 'email_change_token_current' : 'email_change_token_new'
  const address = isCurrent ? (user.email ?? '') : email
  const issued = await issueOneTimeToken(tx, world, { userId: user.id, type, address })
  return {
    ...issued,
    url: actionLink(world, { type: 'email_change', hash: issued.hash, redirectTo: ask.redirectTo }),
  }
}

const inviteForm = z.object({ email: text, data: metadata })

export async function invite(world: AuthWorld, call: AuthCall): Promise<Response> {
  requireAdmin(call)
  const sent = readForm(call, inviteForm)
  const email = validEmail(sent.email ?? '')
  const known = await findUserByEmail(world.sql, email)
  if (known?.confirmed_at) throw emailTaken()
  const wanted = { data: sent.data, type: 'invite' as const, isMagic: false }
  const newcomer = known ? null : await newUserBy(world, call, email, wanted)
  const body = await inTransaction(world, async (tx) => {
    const user = await userFor(tx, email, newcomer)
    const redirectTo = redirectTarget(world, call)
    const { otp, url } = await linkFor(tx, world, user, { type: 'invite', sent: {}, redirectTo })
    await world.sendMail(writeMail(email, 'invite', otp, url))
    return userJson(tx, (await findUserById(tx, user.id)) ?? user)
  })
  return Response.json(body)
}

/** Does it once more when somebody made the same account at the same moment. */
function inTransaction<Result>(world: AuthWorld, work: (tx: Db) => Promise<Result>): Promise<unknown> {
  return world.sql.begin(work).catch((error) => (isTakenAddress(error) ? world.sql.begin(work) : Promise.reject(error)))
}
