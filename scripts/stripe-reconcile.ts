/** npm run stripe:reconcile: compares Stripe with the database, and repairs what differs. */
import { parseArgs } from 'node:util'
import { SingleBar } from 'cli-progress'
import { createBillingDatabase, createDryBillingDatabase } from '../functions/_shared/billing/billing-database.ts'
import { reconcileWithStripe } from '../functions/_shared/billing/billing-jobs.ts'
import type { Reconciled } from '../functions/_shared/billing/reconcile.ts'
import { isLiveKey } from '../functions/_shared/billing/stripe-client.ts'
import { StackError } from '../stack/config.ts'
import { connectBilling, connectionHelp } from './shared/billing-connection.ts'
import { tableOf } from './shared/print-table.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run stripe:reconcile [-- --days N | --all] [--dry-run]

Reads subscriptions, invoices, credit notes, refunds, disputes and checkout sessions from Stripe, compares each with what is stored,
and repairs what is missing or older, with its credits and entitlements. A job does the same every night for 35 days.

--days N    what was made in the last N days, and whatever is still open (default 35)
--all       everything there ever was, and customers, too
--dry-run   say what differs, and change nothing

${connectionHelp}
Exit code: 0 all is equal, or was repaired; 1 something is left that cannot be repaired or compared; 2 it could not start or go on.`

/** Of a log; a terminal has a bar. */
const lineEveryMs = 3_000

await runScript(
  help,
  async () => {
    const { values } = parseArgs({
      options: {
        days: { type: 'string' },
        all: { type: 'boolean', default: false },
        'dry-run': { type: 'boolean', default: false },
      },
    })
    if (values.all && values.days !== undefined) throw new StackError('Either --days or --all; see --help.')
    const days = Number(values.days ?? '35')
    if (!Number.isInteger(days) || days < 1 || days > 3_650) throw new StackError('--days is a number from 1 to 3650.')
    const { sql, secretKey, apiUrl } = await connectBilling()
    const create = values['dry-run'] ? createDryBillingDatabase : createBillingDatabase
    const database = create(sql, isLiveKey(secretKey))
    const bar = startBar()
    try {
      const parts = { database, secretKey, apiUrl, now: Date.now, until: Number.POSITIVE_INFINITY }
      const result = await reconcileWithStripe({ ...parts, days: values.all ? null : days, onProgress: bar.show })
      bar.stop()
      return report(result, values['dry-run'])
    } finally {
      bar.stop()
      await sql.end()
    }
  },
  2,
)

/** Stripe does not say how many there are: the bar moves, and the number says how far. A log has a line every few seconds. */
function startBar() {
  const bar = new SingleBar({ format: '{bar} {value} compared, {kind}', stream: process.stderr })
  if (process.stderr.isTTY) bar.start(100, 0, { kind: 'beginning' })
  let last = { kind: '', at: 0 }
  return {
    show: (kind: string, seen: number) => {
      bar.setTotal(Math.max(100, seen + 100))
      bar.update(seen, { kind: `${kind}s`.replace('_', ' ') })
      if (process.stderr.isTTY || (kind === last.kind && Date.now() - last.at < lineEveryMs)) return
      last = { kind, at: Date.now() }
      console.error(`… ${seen} compared, ${kind}s`)
    },
    stop: () => bar.stop(),
  }
}

function report({ seen, repaired, unrepaired, foreign, is_complete }: Reconciled, dryRun: boolean): number {
  const rows = [
    ...repaired.map(({ object, id }) => [object, id, dryRun ? 'differs' : 'repaired', '']),
    ...unrepaired.map(({ object, id, why }) => [object, id, 'NOT repaired', why]),
  ]
  if (rows.length > 0) console.log(tableOf([['object', 'id', '', 'why'], ...rows]))
  const others = foreign > 0 ? `, ${foreign} of customers that are not ours` : ''
  console.log(
    `${seen} compared, ${repaired.length} ${dryRun ? 'would be repaired' : 'repaired'}, ${unrepaired.length} left${others}.`,
  )
  if (!is_complete) console.log('Not everything was compared: run it again.')
  return unrepaired.length > 0 || !is_complete ? 1 : 0
}
