/** supabase/config.toml with the values of a real project, for `supabase config push` and for that alone. */
import { parse, stringify } from 'smol-toml'
import { z } from 'zod'
import type { Production } from './production-env.ts'

/** Secrets are named in the file and handed over in the CLI's environment. */
const smtpPassword = 'PALISADE_DEPLOY_SMTP_PASSWORD'
const captchaSecret = 'PALISADE_DEPLOY_CAPTCHA_SECRET'

/**
 * The text of the file, and the environment that it needs. A `[remotes.production]` block of the CLI carries what differs for the
 * project; a value that was not given is not in it, and so stays what it is there.
 */
export function productionConfig(
  base: string,
  ref: string,
  production: Production,
): { text: string; env: Record<string, string> } {
  const { SITE_URL, REDIRECT_URLS, CAPTCHA_PROVIDER, CAPTCHA_SECRET, AUTH_TEAM_HOOKS, AUTH_SESSION_LIMITS } = production
  const smtp = mailServer(production)
  const teamHook = { enabled: AUTH_TEAM_HOOKS === 'on' }
  const auth = {
    ...(SITE_URL && { site_url: SITE_URL }),
    ...(REDIRECT_URLS && { additional_redirect_urls: REDIRECT_URLS }),
    ...(smtp && { email: { smtp: { ...smtp.settings, pass: `env(${smtpPassword})` } } }),
    ...(CAPTCHA_PROVIDER && {
      captcha: { enabled: true, provider: CAPTCHA_PROVIDER, secret: `env(${captchaSecret})` },
    }),
    hook: { password_verification_attempt: teamHook, mfa_verification_attempt: teamHook },
  }
  const block = stringify({ remotes: { production: { project_id: ref, auth } } })
  return {
    text: `${AUTH_SESSION_LIMITS === 'on' ? base : withoutSessionLimits(base)}\n${block}`,
    env: {
      ...(smtp && { [smtpPassword]: smtp.password }),
      ...(CAPTCHA_SECRET && { [captchaSecret]: CAPTCHA_SECRET }),
    },
  }
}

const settings = z.looseObject({ auth: z.looseObject({ sessions: z.unknown().optional() }).optional() })

/** A block for one project can change a value, and cannot take one away. */
function withoutSessionLimits(base: string): string {
  const { auth, ...others } = settings.parse(parse(base))
  const { sessions: _limits, ...rest } = auth ?? {}
  return stringify({ ...others, auth: rest })
}

/** Auth sends through the same server, from the same sender, as functions do. */
function mailServer({ SMTP_URL, MAIL_FROM }: Production) {
  if (!SMTP_URL || !MAIL_FROM) return undefined
  const { hostname, port, username, password } = new URL(SMTP_URL)
  const [, name = '', bracketed, bare = ''] = /^\s*(.*?)\s*<([^>]+)>\s*$|^\s*(\S+)\s*$/.exec(MAIL_FROM) ?? []
  const settings = {
    enabled: true,
    host: hostname,
    port: Number(port || 465),
    user: decodeURIComponent(username),
    admin_email: bracketed ?? bare,
    ...(name && { sender_name: name }),
  }
  return { settings, password: decodeURIComponent(password) }
}
