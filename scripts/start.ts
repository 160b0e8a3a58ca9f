/** npm start: the whole backend on this machine, in the foreground, until Ctrl-C. */
import { parseArgs } from 'node:util'
import { readConfig, type StackConfig } from '../stack/config.ts'
import { demoEmail, signInDemoUser } from '../stack/demo-user.ts'
import type { StackKeys } from '../stack/keys.ts'
import { startStack } from '../stack/stack.ts'
import { runScript } from './shared/run-script.ts'
import { statusLines } from './shared/status-lines.ts'
import { sellInStandIn } from './shared/stripe-stand-in.ts'

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
  let interrupt: (signal: string) => void = () => {}
  const interrupted = new Promise<string>((resolve) => {
    interrupt = resolve
  })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, interrupt)
  process.on('unhandledRejection', (reason) => log(`stack: ${reason}`))

  const stack = await startStack(config, { watch: !values['no-watch'], log, progress })
  try {
    // Nothing of ours is written into somebody else's database: no demo user there, and no seed.
    const isOurs = !config.real.db && !config.real.auth
    if (isOurs && config.urls.stripe) await sellInStandIn(config, stack.keys)
    const demo = isOurs ? await signInDemoUser(config, stack.keys) : undefined
    const seconds = ((performance.now() - began) / 1000).toFixed(1)
    console.log(screen(config, stack.keys, seconds, demo?.access_token))
    await interrupted
    console.log('\nStopping …')
  } finally {
    await stack.stop()
  }
  return 0
})
process.exit()

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
