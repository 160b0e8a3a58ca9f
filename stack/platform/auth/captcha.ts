/** The captcha of the routes that strangers may call: a token from the visitor, judged by its provider. */
import { z } from 'zod'
import { isAdmin } from './admin.ts'
import { AuthProblem, unexpected } from './errors.ts'
import type { AuthCall, AuthWorld } from './world.ts'

const routes = /^\/(?:signup|recover|resend|magiclink|otp|sso)$/
const timeoutMs = 10_000

const providers = {
  turnstile: 'https://challenges.cloudflare.com/turnstile/v0/siteverify',
  hcaptcha: 'https://hcaptcha.com/siteverify',
}

type Verdict = { success: boolean; 'error-codes': string[] }

const verdict = z.object({ success: z.boolean(), 'error-codes': z.array(z.string()).default([]) })

/** The providers' documented test secrets, answered here as the providers answer them, so that no network is needed. */
const testSecrets: Record<string, (token: string) => Verdict> = {
  '1x0000000000000000000000000000000AA': () => pass,
  '2x0000000000000000000000000000000AA': () => fail('invalid-input-response'),
  '3x0000000000000000000000000000000AA': () => fail('timeout-or-duplicate'),
  '0x0000000000000000000000000000000000000000': (token) =>
    token === '10000000-aaaa-bbbb-cccc-000000000001' ? pass : fail('invalid-input-response'),
}

const pass: Verdict = { success: true, 'error-codes': [] }
const fail = (code: string): Verdict => ({ success: false, 'error-codes': [code] })

const form = z.object({ gotrue_meta_security: z.object({ captcha_token: z.string() }) })

/** Refuses a guarded request without a good token: 400 captcha_failed, 500 when the provider does not answer. */
export async function checkCaptcha(world: AuthWorld, call: AuthCall, path: string): Promise<void> {
  const { captcha } = world.settings
  if (!captcha?.enabled || !isGuarded(call, path) || isAdmin(call)) return
  const token = form.safeParse(call.body).data?.gotrue_meta_security.captcha_token.trim() ?? ''
  if (token === '') throw refused('no captcha_token found in request')
  const test = testSecrets[captcha.secret]
  const { success, 'error-codes': codes } = test ? test(token) : await askProvider(world, captcha, token, call.address)
  if (!success) throw refused(codes.join(', '))
}

const refused = (why: string) =>
  new AuthProblem(400, 'captcha_failed', `captcha protection: request disallowed (${why})`)

function isGuarded({ request, url }: AuthCall, path: string): boolean {
  if (request.method !== 'POST') return false
  const grant = url.searchParams.get('grant_type') ?? ''
  return routes.test(path) || (path === '/token' && ['password', 'web3'].includes(grant))
}

async function askProvider(
  world: AuthWorld,
  { provider, secret }: { provider: keyof typeof providers; secret: string },
  token: string,
  address: string,
): Promise<Verdict> {
  try {
    const response = await world.fetch(providers[provider], {
      method: 'POST',
      body: new URLSearchParams({ secret, response: token, remoteip: address }),
      signal: AbortSignal.timeout(timeoutMs),
    })
    return verdict.parse(await response.json())
  } catch (error) {
    world.log(`auth: captcha: ${error instanceof Error ? error.message : error}`)
    throw unexpected('captcha verification process failed')
  }
}
