/** The Auth service's settings, read from supabase/config.toml: the same file configures hosted Supabase. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import { z } from 'zod'
import { root, type StackConfig } from '../config.ts'

const file = z.object({
  api: z.object({ schemas: z.array(z.string()), max_rows: z.number().int() }),
  auth: z.object({
    site_url: z.url(),
    additional_redirect_urls: z.array(z.string()).default([]),
    jwt_expiry: z.number().int().positive(),
    enable_signup: z.boolean(),
    enable_refresh_token_rotation: z.boolean(),
    refresh_token_reuse_interval: z.number().int(),
    minimum_password_length: z.number().int(),
    password_requirements: z.string(),
    sessions: z.object({ timebox: z.string(), inactivity_timeout: z.string() }),
    email: z.object({
      enabled: z.boolean(),
      enable_confirmations: z.boolean(),
      double_confirm_changes: z.boolean(),
      otp_length: z.number().int(),
      otp_expiry: z.number().int(),
    }),
  }),
})

export type ProjectSettings = ReturnType<typeof readProjectSettings>

export function readProjectSettings(config: StackConfig) {
  const { api, auth } = file.parse(parse(readFileSync(join(root, 'supabase', 'config.toml'), 'utf8')))
  const { enabled, ...email } = auth.email
  const { site_url, ...rest } = auth
  // The file names the ports of `supabase start`; this stack has its own.
  const site = new URL(site_url)
  if (site.hostname === '127.0.0.1' && site.port === '54323') site.port = String(config.ports.console)
  return { api, auth: { ...rest, site_url: site.origin, email: { ...email, enable_signup: enabled } } }
}
