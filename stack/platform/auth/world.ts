/** What the Auth service works with, and one request to it. */
import type postgres from 'postgres'
import type { Caller } from '../gateway/callers.ts'
import type { Tokens } from '../gateway/tokens.ts'
import type { AuthSettings } from './settings.ts'

/** A connection or a transaction, as role supabase_auth_admin. */
export type Db = postgres.ISql

export type AuthMail = { to: string; subject: string; text: string; html: string }

export type RateLimits = {
  /** Throws 429 when the caller's address has used up the route's requests. */
  admit(call: AuthCall, path: string): void
  /** Throws 429 when the project has sent its mails of the hour. */
  admitMail(): void
}

export type AuthWorld = {
  sql: postgres.Sql
  settings: AuthSettings
  tokens: Tokens
  /** Resolves when the mail is on its way; a rejection undoes what the mail was about. */
  sendMail(message: AuthMail): Promise<unknown>
  /** `api` is the gateway, without /auth/v1; `site` is where people are sent back to. */
  urls: { api: string; site: string }
  limits: RateLimits
  /** Reaches the captcha's provider. */
  fetch: typeof fetch
  log(line: string): void
  now(): Date
}

export type AuthCall = {
  request: Request
  url: URL
  /** The parsed JSON body; {} when there is none. */
  body: unknown
  caller: Caller
  address: string
  userAgent: string | null
  /** X-Supabase-Api-Version */
  apiVersion: string | null
}
