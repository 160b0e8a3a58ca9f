/** npm run demo: a new user's first minutes, in the terminal, against the running stack, with the numbers before and after. */
import { parseArgs } from 'node:util'
import { createClient } from '@supabase/supabase-js'
import OpenAI from 'openai'
import { z } from 'zod'
import type { Database } from '../functions/_shared/database.types.ts'
import { StackError } from '../stack/config.ts'
import { confirmationLink, demoEmail } from '../stack/demo-user.ts'
import { loadKeys } from '../stack/keys.ts'
import { findStack } from '../stack/state.ts'
import { tellWhenLong } from '../stack/tell-when-long.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run demo

Signs a new user up, confirms the mailed link, makes a streamed AI call and a refused one, and shows what was charged; then
connects a stand-in exchange and shows the portfolio. Needs a running stack (npm start).`

const model = 'demo/echo'
const step = (text: string) => console.log(`\n• ${text}`)

await runScript(help, async () => {
  parseArgs({ options: {} })
  const { config, state } = findStack()
  if (!state?.ready)
    throw new StackError(`Nothing runs on ${config.data}. Start it with "npm start" in another terminal.`)
  const keys = await loadKeys(config.files.keys)
  const connect = () =>
    createClient<Database>(config.urls.api, keys.publishableKey, {
      auth: { persistSession: false, autoRefreshToken: false },
    })
  const client = connect()
  const email = `visitor-${Date.now()}@example.com`
  const password = `Demo1${crypto.randomUUID()}`

  step(`${email} signs up`)
  check(
    await client.auth.signUp({
      email,
      password,
      options: { data: { first_name: 'Vera', birth_date: '1995-05-05', accept_terms: true } },
    }),
  )
  const early = await client.auth.signInWithPassword({ email, password })
  console.log(`  signing in before the mail is confirmed: ${early.error?.code ?? 'allowed?!'}`)

  step(`follows the link in the mail (${config.urls.mail})`)
  await fetch(await confirmationLink(config.urls.mail, email), { redirect: 'manual' })
  const { session, user } = (await client.auth.signInWithPassword({ email, password })).data
  if (!session || !user) throw new StackError('Signing in gave no session.')
  console.log('  signed in')

  step('before')
  await showAccount(client)

  step(`asks ${model}, streamed`)
  const openai = new OpenAI({
    apiKey: session.access_token,
    baseURL: `${config.urls.api}/functions/v1/ai/v1`,
    maxRetries: 0,
  })
  const stream = await openai.chat.completions.create({
    model,
    stream: true,
    messages: [{ role: 'user', content: 'Hello, Palisade!' }],
  })
  process.stdout.write('  ')
  for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? '')
  console.log()

  step('after')
  await showAccount(client)
  const [call] = check(await client.from('ai_calls').select('*'))
  if (call) {
    const { prompt_tokens, completion_tokens, cost_micros, credits_charged, duration_ms, first_token_ms } = call
    console.log(
      `  the call   ${prompt_tokens} + ${completion_tokens} tokens, ${cost_micros} micro-dollars, ${credits_charged} credit, first token after ${first_token_ms} ms, all after ${duration_ms} ms`,
    )
  }

  step('asks for a model that is not there')
  const refused = await openai.chat.completions
    .create({ model: 'no/such', messages: [{ role: 'user', content: 'Hi' }] })
    .catch((error: unknown) => error)
  console.log(
    `  ${refused instanceof OpenAI.APIError ? `${refused.status} ${refused.code}: ${refused.message}` : 'answered?!'}`,
  )
  const { data: balance } = await client.rpc('get_my_credits')
  console.log(`  and paid nothing for it: ${balance?.balance} credits`)

  step('somebody else looks for these calls')
  const stranger = connect()
  const strangerSignIn = await stranger.auth.signInWithPassword({ email: demoEmail, password: keys.demoPassword })
  if (strangerSignIn.error) throw new StackError(strangerSignIn.error.message)
  const seen = check(await stranger.from('ai_calls').select('id').eq('user_id', user.id))
  console.log(`  and sees ${seen.length} of them`)

  if (!config.real.exchanges) await showPortfolio(client, user.id, `${config.urls.exchanges}/control`)
  return 0
})

/** At our stand-in of Kraken: a key that may withdraw is refused, one that may only read is synced. */
async function showPortfolio(client: ReturnType<typeof createClient<Database>>, userId: string, control: string) {
  const post = async (path: string, body: object) => {
    const answer = await fetch(control + path, { method: 'POST', body: JSON.stringify(body) })
    return z
      .looseObject({ api_key: z.string().optional(), api_secret: z.string().optional() })
      .parse(await answer.json())
  }
  const add = async (permissions: string[]) => {
    const key = await post('/keys', { exchange: 'kraken', permissions, balances: { BTC: '0.5', USD: '1000' } })
    const { data, response } = await client.functions.invoke('credentials', {
      body: { exchange: 'kraken', name: 'My Kraken', api_key: key.api_key, api_secret: key.api_secret },
    })
    return { api_key: key.api_key, answer: data ?? (await response?.json()) }
  }

  step('gives a key of an exchange that may withdraw')
  const { answer: refused } = await add(['read', 'withdraw'])
  console.log(`  ${refused.error?.code}: ${refused.error?.message}`)

  step('gives one that may only read')
  const { api_key, answer } = await add(['read'])
  console.log(`  ${answer.status}, and it may ${answer.permissions?.join(', ')}`)
  const day = 86_400_000
  await post('/trades', {
    exchange: 'kraken',
    api_key,
    trades: [
      { symbol: 'BTC/USD', side: 'buy', amount: '0.7', price: '50000', fee: '35', at_ms: Date.now() - 90 * day },
      { symbol: 'BTC/USD', side: 'sell', amount: '0.2', price: '60000', fee: '12', at_ms: Date.now() - 30 * day },
    ],
  })

  step('listens to its own channel, and syncs')
  const heard = new Promise<string>((resolve, reject) => {
    client
      .channel(`user:${userId}`, { config: { private: true } })
      .on('broadcast', { event: 'snapshot' }, ({ payload }) => resolve(`${payload.total} ${payload.quote_currency}`))
      .subscribe((status, error) => {
        if (status === 'SUBSCRIBED') client.functions.invoke('portfolio/sync', { method: 'POST' }).catch(reject)
        if (status === 'CHANNEL_ERROR') reject(error)
      })
  })
  const reading = '  the first sync of an exchange reads all trades, at the pace that the exchange allows …'
  console.log(`  heard that it is worth ${await tellWhenLong(heard, () => console.log(reading))}`)
  await client.removeAllChannels()
  const rows = check(await client.rpc('get_my_portfolio'))
  console.table(
    Object.fromEntries(
      rows.map(({ asset, amount, value, cost, unrealised, realised }) => [
        asset,
        { amount, value, cost, unrealised, realised },
      ]),
    ),
  )
}

async function showAccount(client: ReturnType<typeof createClient<Database>>): Promise<void> {
  const { data: credits } = await client.rpc('get_my_credits')
  const limits = check(await client.rpc('get_my_limits'))
  console.log(`  credits    ${credits?.balance} (${credits?.held} held)`)
  for (const { meter, period, used, amount, resets_at } of limits.filter((row) => row.meter.startsWith('ai_'))) {
    console.log(`  ${meter.padEnd(10)} ${used} of ${amount} this ${period}, until ${resets_at}`)
  }
}

function check<Data>(result: { data: Data | null; error: { message: string } | null }): Data {
  if (result.error || result.data === null) throw new StackError(result.error?.message ?? 'no data')
  return result.data
}
