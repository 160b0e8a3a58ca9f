/** Codes and links in mails: used once, for a while, kept as a hash of address and code. */
import { createHash, randomInt } from 'node:crypto'
import { AuthProblem } from './errors.ts'
import type { AuthWorld, Db } from './world.ts'

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
