/** The Auth service of the local stack, for the gateway, which has checked key and token: which function answers which request. */
import postgres from 'postgres'
import type { Caller } from '../gateway/callers.ts'
import { openPool } from '../pool.ts'
import { reauthenticate, showUser, updateUser } from './account.ts'
import { changeFactor, deleteFactor, listFactors } from './admin-factors.ts'
import { generateLink, invite } from './admin-links.ts'
import { changeUser, createUser, deleteUser, listUsers, showAnyUser } from './admin-users.ts'
import { checkCaptcha } from './captcha.ts'
import { AuthProblem, invalid, renderAuthProblem, unexpected } from './errors.ts'
import { resend, sendMagicLink, sendRecovery } from './mail-requests.ts'
import { challengeFactor, enrollFactor, unenrollFactor, verifyFactor } from './mfa.ts'
import { hashOfNobody } from './passwords.ts'
import { callerAddress, createRateLimits, unlimited } from './rate-limit.ts'
import { issueTokens, signOut } from './sign-in.ts'
import { signUp } from './sign-up.ts'
import { followLink, verifyCode } from './verify.ts'
import type { AuthCall, AuthWorld } from './world.ts'

const bodyLimit = 1024 * 1024

export type AuthService = {
  fetch(request: Request, caller: Caller, address: string): Promise<Response>
  /** After the database was away. */
  renew(): void
  close(): Promise<void>
}

/** `dbUrl` is that of role supabase_auth_admin. */
export function createAuthService(
  parts: Omit<AuthWorld, 'sql' | 'now' | 'limits'> & { dbUrl: string; limited: boolean; now?: () => Date },
): AuthService {
  const { dbUrl, limited, now = () => new Date(), ...rest } = parts
  const { sql, renew } = openPool(() => postgres(dbUrl, { max: 10, onnotice: () => {} }))
  const limits = limited ? createRateLimits(rest.settings, now) : unlimited
  const sendMail: AuthWorld['sendMail'] = async (message) => {
    limits.admitMail()
    return rest.sendMail(message)
  }
  const world: AuthWorld = { ...rest, sql, now, limits, sendMail }
  void hashOfNobody(rest.settings)
  return {
    async fetch(request, caller, address) {
      const apiVersion = request.headers.get('x-supabase-api-version')
      try {
        const call: AuthCall = {
          request,
          url: new URL(request.url),
          body: await readJson(request),
          caller,
          address: callerAddress(request, caller, address),
          userAgent: request.headers.get('user-agent'),
          apiVersion,
        }
        return await answer(world, call)
      } catch (error) {
        return renderAuthProblem(problemFor(world, request, error), apiVersion)
      }
    },
    renew,
    close: () => sql.end({ timeout: 1 }),
  }
}

/** PostgreSQL keeps no NUL characters, in text (22021) or in jsonb (22P05). */
const isUnstorable = (error: unknown) =>
  error instanceof postgres.PostgresError && ['22021', '22P05'].includes(error.code)

function problemFor(world: AuthWorld, request: Request, error: unknown): AuthProblem {
  if (isUnstorable(error) || (error instanceof AuthProblem && isUnstorable(error.cause))) {
    return invalid('The request holds a character that cannot be stored')
  }
  if (error instanceof AuthProblem) return error
  world.log(
    `auth: ${request.method} ${new URL(request.url).pathname}: ${error instanceof Error ? error.message : error}`,
  )
  const problem = unexpected('Unexpected failure, please check server logs for more information')
  problem.cause = error
  return problem
}

async function readJson(request: Request): Promise<unknown> {
  const text = await readText(request)
  if (text.trim() === '') return {}
  try {
    const parsed: unknown = JSON.parse(text)
    return parsed ?? {}
  } catch {
    throw new AuthProblem(400, 'bad_json', 'Could not parse request body as JSON')
  }
}

async function readText(request: Request): Promise<string> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength
    if (size > bodyLimit) throw new AuthProblem(413, 'request_entity_too_large', 'Request body exceeds 1 MB')
    chunks.push(new Uint8Array(chunk))
  }
  return new Blob(chunks).text()
}

/** `params` are the groups of the route's path. */
type Handler = (world: AuthWorld, call: AuthCall, params: string[]) => Promise<Response>

type Route = { method: 'GET' | 'POST' | 'PUT' | 'DELETE'; path: RegExp; handle: Handler }

/** Paths are those below /auth/v1. */
const routes: Route[] = [
  { method: 'GET', path: /^\/health$/, handle: showHealth },
  { method: 'GET', path: /^\/settings$/, handle: showSettings },
  { method: 'POST', path: /^\/signup$/, handle: signUp },
  { method: 'POST', path: /^\/token$/, handle: issueTokens },
  { method: 'POST', path: /^\/(?:otp|magiclink)$/, handle: sendMagicLink },
  { method: 'POST', path: /^\/recover$/, handle: sendRecovery },
  { method: 'POST', path: /^\/resend$/, handle: resend },
  { method: 'GET', path: /^\/verify$/, handle: followLink },
  { method: 'POST', path: /^\/verify$/, handle: verifyCode },
  { method: 'GET', path: /^\/user$/, handle: showUser },
  { method: 'PUT', path: /^\/user$/, handle: updateUser },
  { method: 'GET', path: /^\/reauthenticate$/, handle: reauthenticate },
  { method: 'POST', path: /^\/logout$/, handle: signOut },

  { method: 'POST', path: /^\/factors$/, handle: enrollFactor },
  { method: 'DELETE', path: /^\/factors\/([^/]+)$/, handle: unenrollFactor },
  { method: 'POST', path: /^\/factors\/([^/]+)\/challenge$/, handle: challengeFactor },
  { method: 'POST', path: /^\/factors\/([^/]+)\/verify$/, handle: verifyFactor },
  { method: 'POST', path: /^\/invite$/, handle: invite },
  { method: 'POST', path: /^\/admin\/generate_link$/, handle: generateLink },
  { method: 'GET', path: /^\/admin\/users$/, handle: listUsers },
  { method: 'POST', path: /^\/admin\/users$/, handle: createUser },
  { method: 'GET', path: /^\/admin\/users\/([^/]+)$/, handle: showAnyUser },
  { method: 'PUT', path: /^\/admin\/users\/([^/]+)$/, handle: changeUser },
  { method: 'DELETE', path: /^\/admin\/users\/([^/]+)$/, handle: deleteUser },
  { method: 'GET', path: /^\/admin\/users\/([^/]+)\/factors$/, handle: listFactors },
  { method: 'PUT', path: /^\/admin\/users\/([^/]+)\/factors\/([^/]+)$/, handle: changeFactor },
  { method: 'DELETE', path: /^\/admin\/users\/([^/]+)\/factors\/([^/]+)$/, handle: deleteFactor },
]

/** Answers a request or throws its refusal. Limits and captcha come before the handler: see beforeHandler. */
async function answer(world: AuthWorld, call: AuthCall): Promise<Response> {
  const path = call.url.pathname.replace(/^\/auth\/v1/, '').replace(/(.)\/$/, '$1')
  const there = routes.filter((route) => route.path.test(path))
  const route = there.find(({ method }) => method === call.request.method)
  if (!route) {
    throw there.length > 0
      ? new AuthProblem(405, 'validation_failed', 'Method not allowed')
      : new AuthProblem(404, 'validation_failed', 'Not found')
  }
  await beforeHandler(world, call, path)
  return route.handle(world, call, route.path.exec(path)?.slice(1) ?? [])
}

/** What may refuse a request before anything is looked up. */
async function beforeHandler(world: AuthWorld, call: AuthCall, path: string): Promise<void> {
  world.limits.admit(call, path)
  await checkCaptcha(world, call, path)
}

/** What anybody may know about this Auth service. */
async function showSettings(world: AuthWorld, _call: AuthCall): Promise<Response> {
  const { settings } = world
  return Response.json({
    external: {
      anonymous_users: settings.enable_anonymous_sign_ins,
      email: settings.email.enabled,
      phone: false,
    },
    disable_signup: !settings.enable_signup,
    mailer_autoconfirm: !settings.email.enable_confirmations,
    phone_autoconfirm: false,
    sms_provider: '',
    saml_enabled: false,
  })
}

async function showHealth(world: AuthWorld, _call: AuthCall): Promise<Response> {
  await world.sql`select 1`
  return Response.json({
    version: 'local',
    name: 'GoTrue',
    description: 'GoTrue is a user registration and authentication API',
  })
}
