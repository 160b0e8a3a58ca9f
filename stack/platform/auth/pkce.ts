/** The code exchange (RFC 7636): a mailed link yields a code that only the client which asked for the mail can use. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { z } from 'zod'
import { AuthProblem, invalid } from './errors.ts'
import { readForm, text } from './forms.ts'
import { answerSession, openSession } from './sessions.ts'
import { findUserById, isBanned } from './users.ts'
import type { AuthCall, AuthWorld, Db } from './world.ts'

const lifeMs = 5 * 60_000

type Challenge = { code_challenge?: string | null | undefined; code_challenge_method?: string | null | undefined }

/** Notes the caller's challenge; answers whether there was one. */
export async function startFlow(
  tx: Db,
  world: AuthWorld,
  userId: string,
  method: string,
  { code_challenge, code_challenge_method }: Challenge,
): Promise<boolean> {
  if (!code_challenge && !code_challenge_method) return false
  const name = code_challenge_method?.toLowerCase()
  if (!code_challenge || (name !== 's256' && name !== 'plain')) {
    throw invalid('PKCE flow requires code_challenge_method and code_challenge')
  }
  if (!/^[A-Za-z0-9._~-]{43,128}$/.test(code_challenge)) {
    throw invalid('code challenge has to be between 43 and 128 characters')
  }
  const now = world.now()
  await tx`
    insert into auth.flow_state (
      id, user_id, auth_code, authentication_method, code_challenge_method, code_challenge, provider_type, created_at, updated_at)
    values (gen_random_uuid(), ${userId}, null, ${method}, ${name}, ${code_challenge}, 'email', ${now}, ${now})`
  return true
}

/** The link was followed: the newest flow of the user gets its code. */
export async function issueAuthCode(tx: Db, world: AuthWorld, userId: string, method: string): Promise<string> {
  const code = crypto.randomUUID()
  const rows = await tx`
    update auth.flow_state set auth_code = ${code}, auth_code_issued_at = ${world.now()}
    where id = (
      select id from auth.flow_state where user_id = ${userId} and authentication_method = ${method}
      order by created_at desc limit 1)
    returning id`
  if (rows.length === 0) throw flowNotFound()
  return code
}

const flowNotFound = () => new AuthProblem(404, 'flow_state_not_found', 'invalid flow state, no valid flow state found')

const form = z.object({ auth_code: text, code_verifier: text })

export async function exchangeCode(world: AuthWorld, call: AuthCall): Promise<Response> {
  const { auth_code, code_verifier } = readForm(call, form)
  if (!auth_code || !code_verifier)
    throw invalid('invalid request: both auth code and code verifier should be non-empty')
  const body = await world.sql.begin(async (tx) => {
    const flow = await takeFlow(tx, world, auth_code, code_verifier)
    const user = await findUserById(tx, flow.user_id)
    if (!user) throw flowNotFound()
    if (isBanned(user, world.now())) throw new AuthProblem(403, 'user_banned', 'User is banned')
    const session = await openSession(tx, world, call, user, flow.method)
    return answerSession(tx, world, call, session, flow.method)
  })
  return Response.json(body)
}

async function takeFlow(tx: Db, world: AuthWorld, code: string, verifier: string) {
  const [flow] = await tx`
    select id, user_id, authentication_method as method, code_challenge, code_challenge_method, auth_code_issued_at
    from auth.flow_state where auth_code = ${code} for update`
  if (!flow) throw flowNotFound()
  if (flow.auth_code_issued_at.getTime() + lifeMs < world.now().getTime()) {
    throw new AuthProblem(403, 'flow_state_expired', 'invalid flow state, flow state has expired')
  }
  const proven =
    flow.code_challenge_method === 's256' ? createHash('sha256').update(verifier).digest('base64url') : verifier
  if (!sameText(proven, flow.code_challenge)) {
    throw new AuthProblem(400, 'bad_code_verifier', 'code challenge does not match previously saved code verifier')
  }
  await tx`delete from auth.flow_state where id = ${flow.id}`
  return { user_id: String(flow.user_id), method: String(flow.method) }
}

const sameText = (a: string, b: string) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b))
