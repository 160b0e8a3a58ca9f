/** npm run stripe:sync: what we sell, as products and prices in Stripe. */
import { parseArgs } from 'node:util'
import { alone, createBillingDatabase } from '../functions/_shared/billing/billing-database.ts'
import { createStripe, isLiveKey } from '../functions/_shared/billing/stripe-client.ts'
import { type Synced, syncCatalogue } from '../functions/_shared/billing/sync-catalogue.ts'
import type { Database } from '../functions/_shared/db.ts'
import { connectBilling, connectionHelp } from './shared/billing-connection.ts'
import { tableOf } from './shared/print-table.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run stripe:sync [-- --dry-run]

Makes or updates a product in Stripe for every plan and credit pack, and a price for every row of plan_prices and credit_packs;
reads them back and compares. Nothing can be bought before. An amount that changed becomes another price: who subscribed keeps the
earlier one. What is not enabled is archived. Run it again as often as you like.

--dry-run   say what would be done, and do nothing

${connectionHelp}
Exit code: 0 Stripe has everything as it is here, 1 something reads back differently, 2 it could not start or go on.`

await runScript(
  help,
  async () => {
    const { values } = parseArgs({ options: { 'dry-run': { type: 'boolean', default: false } } })
    const dryRun = values['dry-run']
    const { sql, secretKey, apiUrl } = await connectBilling()
    try {
      const database = createBillingDatabase(sql, isLiveKey(secretKey))
      const world = { database, stripe: createStripe(secretKey, apiUrl), dryRun }
      const synced = await alone(sql, async () => syncCatalogue(await database.listItems(), world))
      return report(synced, await costsOf(sql, synced), dryRun)
    } finally {
      await sql.end()
    }
  },
  2,
)

function report(synced: Synced[], costs: string[], dryRun: boolean): number {
  const rows = synced.map(({ item, action, price_id, differences }, at) => [
    item.id,
    `${costs[at]}${item.interval ? ` a ${item.interval}` : ''}`,
    action,
    price_id ?? '',
    differences.join(', '),
  ])
  console.log(tableOf([['what', 'costs', dryRun ? 'would be' : 'is', 'price in Stripe', ''], ...rows]))
  const different = synced.filter(({ differences }) => differences.length > 0)
  if (different.length > 0) console.error(`${different.length} of ${synced.length} read back differently.`)
  return different.length > 0 ? 1 : 0
}

/** As users are told amounts: the digits that Stripe gives a currency are known in one place. */
async function costsOf(sql: Database, synced: Synced[]): Promise<string[]> {
  const [amounts, currencies] = [synced.map(({ item }) => item.amount), synced.map(({ item }) => item.currency)]
  const rows = await sql<{ cost: string }[]>`
    select private.money_text(i.amount, i.currency) as cost
    from unnest(${amounts}::bigint[], ${currencies}::text[]) with ordinality i (amount, currency, place) order by i.place`
  return rows.map(({ cost }) => cost)
}
