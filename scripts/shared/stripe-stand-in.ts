/** What the local stack sells: every start brings the rows of plans and packs to its stand-in for Stripe. */
import { alone, createBillingDatabase } from '../../functions/_shared/billing/billing-database.ts'
import { createStripe } from '../../functions/_shared/billing/stripe-client.ts'
import { syncCatalogue } from '../../functions/_shared/billing/sync-catalogue.ts'
import type { StackConfig } from '../../stack/config.ts'
import type { StackKeys } from '../../stack/keys.ts'
import { connectLocally } from './billing-connection.ts'

/** In an account at Stripe itself an operator decides when, with npm run stripe:sync. */
export async function sellInStandIn(config: StackConfig, keys: StackKeys): Promise<void> {
  const { sql, secretKey, apiUrl } = connectLocally(config, keys)
  try {
    const database = createBillingDatabase(sql, false)
    const world = { database, stripe: createStripe(secretKey, apiUrl), dryRun: false }
    await alone(sql, async () => syncCatalogue(await database.listItems(), world))
  } finally {
    await sql.end()
  }
}
