/** npm start: the whole backend on this machine, in the foreground, until Ctrl-C. */
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { alone, createBillingDatabase } from '../functions/_shared/billing/billing-database.ts'
import { createStripe } from '../functions/_shared/billing/stripe-client.ts'
import { syncCatalogue } from '../functions/_shared/billing/sync-catalogue.ts'
import { readConfig, type StackConfig } from '../stack/config.ts'
import { demoEmail, signInDemoUser } from '../stack/demo-user.ts'
import type { StackKeys } from '../stack/keys.ts'
import { isLostWrite } from '../stack/platform/pool.ts'
import { startStack } from '../stack/stack.ts'
import { tellWhenLong } from '../stack/tell-when-long.ts'
import { connectLocally } from './shared/billing-connection.ts'
import { runScript } from './shared/run-script.ts'
import { statusLines } from './shared/status-lines.ts'

const help = `Usage: npm start [-- --no-watch]

Starts PostgreSQL, Auth, REST, Storage, Edge Functions, mailbox, jobs, an AI provider and stand-ins for Stripe and exchanges on 127.0.0.1 and prints how to
reach them. Ctrl-C stops everything; the data stays in PALISADE_DATA. Variables: .env.example.
  --no-watch   do not restart functions when their files change`

await runScript(help, async () => {
  const { values } = parseArgs({ options: { 'no-watch': { type: 'boolean', default: false } } })
  const began = performance.now()
  const config = readConfig()
  const log = (line: string) => console.error(line)
  const progress = (line: string) => console.log(`… ${line}`)
  const interrupt = new AbortController()
  const interrupted = once(interrupt.signal, 'abort')
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => interrupt.abort())
  process.on('unhandledRejection', (reason) => log(`stack: ${reason}`))
  let stack: Awaited<ReturnType<typeof startStack>> | undefined
  let exitCode = 0
  process.on('uncaughtException', (error) => {
    if (isLostWrite(error)) {
      log('stack: a connection to the database broke inside a transaction; all are opened anew')
      stack?.renew().catch((reason: unknown) => log(`stack: ${reason}`))
      return
    }
    // Whatever it is: nothing may be left behind.
    log(`stack: ${error.stack ?? error}`)
    exitCode = 1
    interrupt.abort()
  })

  stack = await startStack(config, { watch: !values['no-watch'], log, progress, interrupted: interrupt.signal })
  try {
    // Nothing of ours is written into somebody else's database: no demo user there, and no seed.
    const isOurs = !config.real.db && !config.real.auth
    if (isOurs && config.urls.stripe) {
      const selling = sellInStandIn(config, stack.keys)
      await tellWhenLong(selling, () => progress('Bringing the plans to the stand-in for Stripe'))
    }
    const demo = isOurs ? await signInDemoUser(config, stack.keys) : undefined
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    console.log(screen(config, stack.keys, seconds, demo?.access_token))
    await interrupted
    console.log('\nStopping …')
  } finally {
    await stack.stop()
  }
  return exitCode
})
process.exit()

/**
 * What the local stack sells: every start brings the rows of plans and packs to its stand-in for Stripe. In an account at Stripe
 * itself an operator decides when, with npm run stripe:sync.
 */
async function sellInStandIn(config: StackConfig, keys: StackKeys): Promise<void> {
  const { sql, secretKey, apiUrl } = connectLocally(config, keys)
  try {
    const database = createBillingDatabase(sql, false)
    const world = { database, stripe: createStripe(secretKey, apiUrl), dryRun: false }
    await alone(sql, async () => syncCatalogue(await database.listItems(), world))
  } finally {
    await sql.end()
  }
}

/** What a person needs to go on, on one screen. */
function screen(config: StackConfig, keys: StackKeys, seconds: string, token: string | undefined): string {
  const lines = statusLines(config, keys).map(([name, value]) => `  ${name.padEnd(21)} ${value}`)
  const ready = ['', `Palisade is ready (${seconds} s). Ctrl-C stops it.`, '', ...lines]
  if (!token) return [...ready, ''].join('\n')
  const messages = [{ role: 'user', content: 'Hello, Palisade!' }]
  const body = JSON.stringify({ model: 'demo/echo', stream: true, messages })
  const url = `${config.urls.api}/functions/v1/ai/v1/chat/completions`
  return [
    ...ready,
    '',
    `  Demo user             ${demoEmail}, password ${keys.demoPassword}`,
    '',
    'A streamed, metered answer as that user (the token lives 15 minutes; "npm run -s status -- --token" prints a new one):',
    '',
    `curl -N ${url} -H 'Authorization: Bearer ${token}' -H 'Content-Type: application/json' -d '${body}'`,
    '',
  ].join('\n')
}
