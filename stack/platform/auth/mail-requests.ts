/** Calls that send a mail and say nothing about who has an account: /otp, /magiclink, /recover, /resend. */
import { z } from 'zod'
import { askForEmailChange } from './email-change.ts'
import { AuthProblem, invalid } from './errors.ts'
import { challenge, metadata, nothing, readForm, text, validEmail } from './forms.ts'
import { redirectTarget, sendLink } from './mailed-links.ts'
import { hashPassword } from './passwords.ts'
import { startFlow } from './pkce.ts'
import {
  askBeforeUserCreated,
  emailUser,
  isTakenAddress,
  saveNewUser,
  sendConfirmation,
  withAddress,
} from './sign-up.ts'
import { findUserByEmail, lockUser, type UserRow } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const otpForm = z.object({ email: text, phone: text, data: metadata, create_user: z.boolean().nullish(), ...challenge })

type OtpForm = z.infer<typeof otpForm>

/** A link to sign in with. Somebody new signs up by it, unless the caller or the project does not want that. */
export async function sendMagicLink(world: AuthWorld, call: AuthCall): Promise<Response> {
  const sent = readForm(call, otpForm)
  const email = addressOf(sent)
  const known = await findUserByEmail(world.sql, email)
  if (known) return inTransaction(world, email, (tx, user) => sendSignInLink(tx, world, call, user, sent))
  if (sent.create_user === false) throw new AuthProblem(422, 'otp_disabled', 'Signups not allowed for otp')
  if (!world.settings.enable_signup || !world.settings.email.enable_signup) {
    throw new AuthProblem(422, 'signup_disabled', 'Signups not allowed for this instance')
  }
  const user = { ...emailUser(crypto.randomUUID(), email, sent.data ?? {}, world.now()) }
  const passwordHash = await hashPassword(world.settings, `${crypto.randomUUID()}${crypto.randomUUID()}`.slice(0, 72))
  await askBeforeUserCreated(world, call, user)
  const confirmed = !world.settings.email.enable_confirmations
  const userMetadata = withAddress(user.id, email, sent.data ?? {}, confirmed)
  try {
    await world.sql.begin(async (tx) => {
      const row = await saveNewUser(tx, { ...user, passwordHash, userMetadata, emailConfirmed: confirmed })
      await sendSignInLink(tx, world, call, row, sent)
    })
  } catch (error) {
    if (!isTakenAddress(error)) throw error
  }
  return nothing()
}

async function sendSignInLink(tx: Db, world: AuthWorld, call: AuthCall, user: UserRow, sent: OtpForm): Promise<void> {
  if (!user.confirmed_at) return sendConfirmation(tx, world, call, user, sent)
  const pkce = await startFlow(tx, world, user.id, 'magiclink', sent)
  await sendLink(tx, world, user, { type: 'magiclink', redirectTo: redirectTarget(world, call), pkce })
}

const recoverForm = z.object({ email: text, phone: text, ...challenge })

export async function sendRecovery(world: AuthWorld, call: AuthCall): Promise<Response> {
  const sent = readForm(call, recoverForm)
  return inTransaction(world, addressOf(sent), async (tx, user) => {
    const pkce = await startFlow(tx, world, user.id, 'recovery', sent)
    await sendLink(tx, world, user, { type: 'recovery', redirectTo: redirectTarget(world, call), pkce })
  })
}

const resendForm = z.object({ type: text, email: text, phone: text, ...challenge })

export async function resend(world: AuthWorld, call: AuthCall): Promise<Response> {
  const sent = readForm(call, resendForm)
  if (sent.type !== 'signup' && sent.type !== 'email_change') {
    throw invalid('Missing one of these types: signup, email_change, sms, phone_change')
  }
  return inTransaction(world, addressOf(sent), async (tx, user) => {
    if (sent.type === 'signup') {
      if (!user.confirmed_at) await sendConfirmation(tx, world, call, user, sent)
      return
    }
    if (!user.email_change) return
    const pkce = await startFlow(tx, world, user.id, 'email_change', sent)
    await askForEmailChange(tx, world, user, {
      email: user.email_change,
      redirectTo: redirectTarget(world, call),
      pkce,
    })
  })
}

function addressOf({ email, phone }: { email?: string | null | undefined; phone?: string | null | undefined }): string {
  if (!email && phone) throw new AuthProblem(400, 'phone_provider_disabled', 'Unsupported phone provider')
  return validEmail(email ?? '')
}

/** Does it for the address's user, and the same transaction without effect when there is none. */
async function inTransaction(
  world: AuthWorld,
  email: string,
  send: (tx: Db, user: UserRow) => Promise<void>,
): Promise<Response> {
  await world.sql.begin(async (tx) => {
    const found = await findUserByEmail(tx, email)
    const user = found && (await lockUser(tx, found.id))
    if (user) await send(tx, user)
    else await tx`select pg_logical_emit_message(true, 'auth', 'nobody')`
  })
  return nothing()
}
