/** Calls the Auth hooks as the Auth service does: as its own role, each call in its own transaction. */
import postgres from 'postgres'
import { target } from '../target.ts'
import type { Sql, Tx } from './support.ts'

export type Hook = 'custom_access_token' | 'password_verification_attempt' | 'mfa_verification_attempt'
export type HookAnswer = {
  decision?: string
  message?: string
  should_logout_user?: boolean
  claims?: Record<string, unknown>
  error?: { http_code: number; message: string }
}

/** A connection as a superuser: the Auth service logs in with a password that the tests do not have. */
export const connectAsAdmin = (max = 1): Sql => {
  const url = target().superuserUrl
  if (!url) throw new Error('The hooks are tested as supabase_auth_admin: set SUPERUSER_URL.')
  return postgres(url, { max, onnotice: () => {} })
}

/** One call of a hook, in a transaction of its own. */
export async function callHook(sql: Sql, hook: Hook, event: object): Promise<HookAnswer> {
  return sql.begin((tx) => callHookIn(tx, hook, event)) as Promise<HookAnswer>
}

/** One call of a hook inside a transaction, which then goes on as postgres. */
export async function callHookIn(tx: Tx, hook: Hook, event: object): Promise<HookAnswer> {
  await tx`set local role supabase_auth_admin`
  const [row] = await tx`select ${tx(`private.${hook}`)}(${JSON.stringify(event)}::text::jsonb) as answer`
  await tx`set local role postgres`
  return row?.answer
}

export const attempt = (userId: string, valid: boolean, ip = '192.0.2.7') => ({
  metadata: {
    uuid: crypto.randomUUID(),
    time: new Date().toISOString(),
    name: 'password-verification',
    ip_address: ip,
  },
  user_id: userId,
  valid,
})

class Rollback extends Error {}

/** A story in one transaction that can call hooks and otherwise runs as postgres; everything is taken back. */
export async function rolledBackWithHooks(story: (tx: Tx) => Promise<void>): Promise<void> {
  const admin = connectAsAdmin()
  const end = admin.begin(async (tx) => {
    await tx`set local role postgres`
    await story(tx)
    throw new Rollback()
  })
  await end
    .catch((error: unknown) => {
      if (!(error instanceof Rollback)) throw error
    })
    .finally(() => admin.end())
}
