/** Which function answers which request. Paths are those below /auth/v1. */
import { showHealth, showSettings } from './about.ts'
import { reauthenticate, showUser, updateUser } from './account.ts'
import { createUser } from './admin-create.ts'
import { deleteUser } from './admin-delete.ts'
import { changeFactor, deleteFactor, listFactors } from './admin-factors.ts'
import { generateLink, invite } from './admin-links.ts'
import { listUsers, showAnyUser } from './admin-list.ts'
import { changeUser } from './admin-update.ts'
import { checkCaptcha } from './captcha.ts'
import { AuthProblem } from './errors.ts'
import { resend, sendMagicLink, sendRecovery } from './mail-requests.ts'
import { enrollFactor, unenrollFactor } from './mfa.ts'
import { challengeFactor, verifyFactor } from './mfa-verify.ts'
import { issueTokens } from './sign-in.ts'
import { signOut } from './sign-out.ts'
import { signUp } from './sign-up.ts'
import { followLink, verifyCode } from './verify.ts'
import type { AuthCall, AuthWorld } from './world.ts'

/** `params` are the groups of the route's path. */
export type Handler = (world: AuthWorld, call: AuthCall, params: string[]) => Promise<Response>

type Route = { method: 'GET' | 'POST' | 'PUT' | 'DELETE'; path: RegExp; handle: Handler }

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
export async function answer(world: AuthWorld, call: AuthCall): Promise<Response> {
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
