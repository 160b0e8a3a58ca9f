/** What status prints and start shows: the names that `supabase status -o env` uses. */

import type { StackConfig } from '../../stack/config.ts'
import type { StackKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'

export function statusLines(config: StackConfig, keys: StackKeys): [string, string][] {
  const { api, mail } = config.urls
  return [
    ['API_URL', api],
    ['REST_URL', `${api}/rest/v1`],
    ['FUNCTIONS_URL', `${api}/functions/v1`],
    ['DB_URL', config.real.db ?? localDbUrl(config.ports.db, keys, 'postgres')],
    ['MAILPIT_URL', mail],
    ['CONSOLE_URL', `http://127.0.0.1:${config.ports.console}`],
    ['PUBLISHABLE_KEY', keys.publishableKey],
    ['SECRET_KEY', keys.secretKey],
    ...stripeLines(config, keys),
  ]
}

/** The secret that signs webhooks; the key of the account is nobody's business but the functions'. */
function stripeLines({ urls, real }: StackConfig, keys: StackKeys): [string, string][] {
  const [secret = ''] = (real.stripe?.webhookSecrets ?? keys.stripe.webhookSecret).split(',')
  return [
    ['STRIPE_WEBHOOK_SECRET', secret.trim()],
    ...(urls.stripe ? [['STRIPE_API_URL', urls.stripe] satisfies [string, string]] : []),
  ]
}
