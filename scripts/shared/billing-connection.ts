/** Which database and which Stripe a script of billing works on: those of the environment, otherwise the local stack's. */
import type postgres from 'postgres'
import { z } from 'zod'
import { type StackConfig, StackError } from '../../stack/config.ts'
import { loadKeys, type StackKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { findStack } from '../../stack/state.ts'
import { connectDatabase } from './connect-database.ts'

export const connectionHelp = `Database: DB_URL as role postgres. Stripe: STRIPE_SECRET_KEY. Without them, the local stack that runs, with its
stand-in for Stripe or the key in .env. DB_URL alone is refused: prices of a stand-in have no place in a real database.`

export type BillingConnection = { sql: postgres.Sql; secretKey: string; apiUrl: string | undefined }

export async function connectBilling(): Promise<BillingConnection> {
  const { DB_URL, STRIPE_SECRET_KEY, STRIPE_API_URL } = process.env
  if (DB_URL) {
    if (!STRIPE_SECRET_KEY) throw new StackError('DB_URL is set, so STRIPE_SECRET_KEY must be set, too.')
    if (STRIPE_API_URL && !httpUrl.safeParse(STRIPE_API_URL).success)
      throw new StackError('STRIPE_API_URL is not an http URL. Leave it out to reach Stripe itself.')
    return { sql: connect(DB_URL), secretKey: STRIPE_SECRET_KEY, apiUrl: STRIPE_API_URL || undefined }
  }
  const { config, state } = findStack()
  if (!state) throw new StackError('No stack runs. Start one with `npm start`, or set DB_URL.')
  return connectLocally(config, await loadKeys(config.files.keys))
}

/** The local stack's own database and its stand-in for Stripe, or the key in .env. */
export const connectLocally = (config: StackConfig, keys: StackKeys): BillingConnection => ({
  sql: connect(localDbUrl(config.ports.db, keys, 'postgres')),
  secretKey: config.real.stripe?.secretKey ?? keys.stripe.secretKey,
  apiUrl: config.urls.stripe ?? undefined,
})

const connect = (url: string) => connectDatabase(url, { max: 2 })
const httpUrl = z.url({ protocol: /^https?$/ })
