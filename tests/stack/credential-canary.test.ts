/** A secret takes every path there is while everything logs all it can; afterwards it is nowhere in clear. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { expect, test } from 'vitest'
import { readConfig, root } from '../../stack/config.ts'
import { signInDemoUser } from '../../stack/demo-user.ts'
import type { StackKeys } from '../../stack/keys.ts'
import { localDbUrl } from '../../stack/platform/bootstrap.ts'
import { standInExchanges } from '../support/exchanges.ts'
import { freeRange } from '../support/ports.ts'

const canary = (kind: string) => `sk-canary-${kind}-${crypto.randomUUID()}`
const [first, second] = [canary('one'), canary('two')]
/** Logged on purpose, so that a search that finds nothing is known to search in the right places. */
const marker = `marker-${crypto.randomUUID()}`

const filesIn = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile())
/** As text, as UTF-16, as hex and as base64 at each of its three phases. */
function formsOf(secret: string): string[] {
  const bytes = Buffer.from(secret)
  const base64 = [0, 1, 2].map((phase) =>
    Buffer.concat([Buffer.alloc(phase), bytes])
      .toString('base64')
      .slice(4, -4),
  )
  return [secret, bytes.toString('hex'), ...base64, Buffer.from(secret, 'utf16le').toString('latin1')]
}

async function startStack(data: string, port: number) {
  const env = { ...process.env, PALISADE_DATA: data, PALISADE_PORT: String(port), PALISADE_EXCHANGES_GAP_MS: '1' }
  const child = spawn(process.execPath, ['scripts/start.ts', '--no-watch'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk))
  await expect.poll(() => output, { timeout: 90_000 }).toContain('Palisade is ready')
  return {
    config: readConfig(env),
    output: () => output,
    async stop() {
      child.kill('SIGTERM')
      await once(child, 'exit')
    },
  }
}

test('a credential is in no log, no error, no answer, no statistics and no file of the database', async () => {
  const data = await mkdtemp(join(tmpdir(), 'palisade-canary-'))
  const stack = await startStack(data, await freeRange(20_000))
  try {
    const { config } = stack
    const keys: StackKeys = JSON.parse(readFileSync(config.files.keys, 'utf8'))
    const admin = postgres(localDbUrl(config.ports.db, keys, 'supabase_admin'), { max: 1, onnotice: () => {} })
    const talkative = {
      log_statement: 'all',
      log_min_duration_statement: '0',
      log_parameter_max_length: '-1',
      log_parameter_max_length_on_error: '-1',
      log_min_messages: 'debug2',
      log_error_verbosity: 'verbose',
      debug_print_plan: 'on',
      debug_print_parse: 'on',
      'pg_stat_statements.track': 'all',
    }
    for (const [name, value] of Object.entries(talkative))
      await admin.unsafe(`alter database postgres set ${name} = '${value}'`)
    await admin`create extension if not exists pg_stat_statements with schema extensions`
    // Sessions that were there before have the old settings.
    await admin`select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'`
    const { access_token } = await signInDemoUser(config, keys)
    const answers: string[] = []
    const ask = async (method: string, path: string, body?: unknown, headers = {}) => {
      const response = await fetch(`${config.urls.api}/functions/v1${path}`, {
        method,
        headers: { authorization: `Bearer ${access_token}`, 'content-type': 'application/json', ...headers },
        ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      })
      answers.push(await response.text())
      return { status: response.status, text: answers.at(-1) ?? '' }
    }

    const added = await ask('POST', '/credentials', {
      provider: 'demo',
      name: marker,
      api_key: first,
      api_secret: first,
    })
    expect(added.status, added.text).toBe(201)
    const { id } = JSON.parse(added.text)
    const call = { model: 'demo/echo', messages: [{ role: 'user', content: marker }] }
    expect(await ask('POST', '/ai/v1/chat/completions', call, { 'x-provider-credential': id })).toMatchObject({
      status: 200,
    })
    expect(await ask('POST', `/credentials/${id}/rotate`, { api_key: second, passphrase: second })).toMatchObject({
      status: 200,
    })
    // Keys of exchanges: one that is synced with, one that is wrong, one that may withdraw.
    const exchanges = standInExchanges(config.ports.api)
    const [good, other, greedy] = await Promise.all([
      exchanges.makeKey('kraken', { balances: { BTC: '1' } }),
      exchanges.makeKey('binance'),
      exchanges.makeKey('coinbase', { permissions: ['read', 'withdraw'] }),
    ])
    // Of a key in PEM the middle, which nothing cuts or escapes.
    const longestLine = (text: string) => text.split('\n').reduce((a, b) => (b.length > a.length ? b : a), '')
    const exchangeSecrets = [good, other, greedy]
      .flatMap(({ api_key, api_secret }) => [api_key, api_secret])
      .map(longestLine)
    const connected = await ask('POST', '/credentials', { exchange: 'kraken', name: 'Mine', ...good })
    expect(connected, connected.text).toMatchObject({ status: 201 })
    const { id: exchangeId } = JSON.parse(connected.text)
    expect(await ask('POST', '/portfolio/sync', {})).toMatchObject({ status: 200 })
    await expect
      .poll(async () => (await admin`select count(*)::int as n from public.holdings`)[0]?.n, { timeout: 60_000 })
      .toBe(1)
    await ask('POST', '/credentials', { exchange: 'binance', name: 'Mine', ...other, api_secret: good.api_secret })
    expect(await ask('POST', '/credentials', { exchange: 'coinbase', name: 'Mine', ...greedy })).toMatchObject({
      status: 422,
    })
    expect(await ask('POST', `/credentials/${exchangeId}/rotate`, other)).toMatchObject({ status: 422 })
    // So that a sync meets a key that its exchange does not know any more.
    await exchanges.changeKey('kraken', good.api_key, { revoked: true })
    await ask('POST', '/portfolio/sync', {})
    // Errors of every kind, with the secret in all of them.
    await ask('POST', '/credentials', { provider: 'nobody', name: 'x', api_key: first })
    await ask('POST', '/credentials', { provider: 'demo', name: first.repeat(5), api_key: first })
    await ask('POST', '/credentials', `{"provider": "demo", "api_key": "${first}`)
    await ask('POST', `/credentials/${crypto.randomUUID()}/rotate`, { api_key: second })
    await admin`update private.credential_secrets set nonce = set_bit(nonce, 0, 1 - get_bit(nonce, 0)) where field = 'passphrase'`
    await admin`update public.credentials set last_tested_at = null`
    expect(await ask('POST', `/credentials/${id}/test`)).toMatchObject({ status: 409 })
    await admin`update private.credential_secrets set nonce = set_bit(nonce, 0, 1 - get_bit(nonce, 0)) where field = 'passphrase'`
    await admin`update public.credentials set status_reason = null`
    const [{ sealed } = {}] =
      await admin`select count(distinct credential_id)::int as sealed from private.credential_secrets`
    const owner = postgres(localDbUrl(config.ports.db, keys, 'postgres'), { max: 1, onnotice: () => {} })
    await owner`select private.rotate_credential_keys()`
    const [resealed] = await owner`select private.reseal_credentials() as done`
    await owner.end()
    expect(resealed?.done).toMatchObject({ resealed: sealed, left: 0 })
    await admin`checkpoint`
    const [{ queries } = {}] = await admin`select string_agg(query, ' ') as queries from extensions.pg_stat_statements`
    const [{ audit } = {}] = await admin`select string_agg(to_jsonb(a)::text, ' ') as audit from private.audit_log a`
    await admin.end()

    // Everything in the data folder but the provider's own: what it was asked is its business.
    const places = new Map(filesIn(data).map((path) => [path, readFileSync(path, 'latin1')]))
    places.set('the output of the stack', stack.output()).set('answers', answers.join('\n'))
    places.set('statistics', String(queries)).set('the audit log', String(audit))
    const found = [first, second, ...exchangeSecrets].flatMap((secret) =>
      formsOf(secret).flatMap((form) => [...places].filter(([, text]) => text.includes(form)).map(([place]) => place)),
    )

    expect(found).toEqual([])
    // The search sees what is there: the marker in an answer, statements and parameters in the log, the row in the tables.
    expect(answers.join()).toContain(marker)
    const log = [...places]
      .filter(([path]) => path.includes('/log/'))
      .map(([, text]) => text)
      .join('')
    expect(log).toMatch(/select private\.save_credential\(/)
    expect(log).toMatch(/[Pp]arameters: .*demo/)
    expect([...places].filter(([, text]) => text.includes(marker)).map(([place]) => place)).toEqual(
      expect.arrayContaining([expect.stringContaining('/base/'), expect.stringContaining('/log/'), 'answers']),
    )
  } finally {
    await stack.stop()
    rmSync(data, { recursive: true, force: true })
  }
}, 240_000)
