/** What reads exchanges runs in Deno with the functions' own import map and permissions, over a real connection. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { serve } from '@hono/node-server'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { functionFiles, root } from '../../stack/config.ts'
import { createExchanges } from '../../stack/doubles/exchanges.ts'
import { denoBinary, denoOffline } from '../../stack/platform/functions.ts'
import { movedClock } from '../../stack/platform/postgres.ts'
import { names } from './exchanges-world.ts'

const packageFile = z.object({ dependencies: z.record(z.string(), z.string()) })
const made = z.looseObject({ api_key: z.string().optional() })
const post = async (url: string, body: object) =>
  made.parse(await (await fetch(url, { method: 'POST', body: JSON.stringify(body) })).json())

test('Deno finds single exchanges of ccxt and reads them', async () => {
  const server = serve({ fetch: createExchanges().fetch, port: 0, hostname: '127.0.0.1' })
  await once(server, 'listening')
  const address = server.address()
  const origin = typeof address === 'object' && address ? `http://127.0.0.1:${address.port}` : ''
  const targets = []
  for (const exchange of names) {
    const credentials = await post(`${origin}/control/keys`, { exchange, balances: { BTC: '1.50000001' } })
    const trade = {
      symbol: 'BTC/EUR',
      side: 'buy',
      amount: '1.50000001',
      price: '59000.01',
      at_ms: Date.now() - 60_000,
    }
    await post(`${origin}/control/trades`, { exchange, api_key: credentials.api_key, trades: [trade] })
    targets.push({ exchange, base_url: `${origin}/${exchange}`, credentials })
  }

  const readable = ['functions', 'node_modules', 'tests/support'].map((folder) => join(root, folder)).join(',')
  const flags = [...denoOffline, '--allow-env', '--allow-net']
  const program = fileURLToPath(new URL('../support/read-exchanges.ts', import.meta.url))
  const files = ['--config', join(root, 'functions/deno.json'), program]
  const env = {
    ...movedClock(),
    TARGETS: JSON.stringify(targets),
    DENO_DIR: functionFiles.cache,
    NO_COLOR: '1',
  }
  const run = promisify(execFile)(denoBinary(), ['run', ...flags, `--allow-read=${readable}`, ...files], { env })
  const { stdout } = await run.finally(() => server.close())

  expect(JSON.parse(stdout)).toEqual(
    names.map(() => ({
      test: expect.objectContaining({ ok: true, can_withdraw: false }),
      holdings: { holdings: [{ asset: 'BTC', amount: '1.50000001', name: 'BTC' }], skipped: [] },
      prices: [{ asset: 'BTC', price: '59180.40', path: ['BTC/EUR'] }],
      trades: [expect.objectContaining({ symbol: 'BTC/EUR', amount: '1.50000001', price: '59000.01' })],
      connect_ms: expect.any(Number),
    })),
  )
})

test('the import map names the packages that ccxt itself asks for, in its versions', () => {
  const read = (file: string): unknown => JSON.parse(readFileSync(join(root, file), 'utf8'))
  const { imports } = z.object({ imports: z.record(z.string(), z.string()) }).parse(read('functions/deno.json'))
  const { dependencies } = packageFile.parse(read('node_modules/ccxt/package.json'))

  // undici is imported when no other fetch is given, and ours is.
  const mapped = Object.entries(dependencies).filter(([name]) => name !== 'undici')

  for (const [name, version] of mapped) {
    const specifier = imports[name] ?? imports[`${name}/`]
    expect(specifier?.replace('npm:/', 'npm:').replace(/\/$/, '')).toBe(`npm:${name}@${version}`)
  }
})
