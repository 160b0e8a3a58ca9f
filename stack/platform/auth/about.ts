/** What anybody may know about this Auth service. */
import type { AuthCall, AuthWorld } from './world.ts'

export async function showSettings(world: AuthWorld, _call: AuthCall): Promise<Response> {
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

export async function showHealth(world: AuthWorld, _call: AuthCall): Promise<Response> {
  await world.sql`select 1`
  return Response.json({
    version: 'local',
    name: 'GoTrue',
    description: 'GoTrue is a user registration and authentication API',
  })
}
