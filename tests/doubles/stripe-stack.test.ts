/** The stand-in in the stack: its keys, its port, real keys in its place, and what it still knows after a restart. */
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { statusLines } from '../../scripts/shared/status-lines.ts'
import { readConfig } from '../../stack/config.ts'
import { loadKeys } from '../../stack/keys.ts'
import { createShop, createWorld, day, subscribe } from '../support/stripe.ts'
import { target } from '../target.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'palisade-stripe-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

test.each(['stripe', 'secretKey'] as const)('keys that lack %s are refused and left alone', async (name) => {
  const file = join(folder, 'keys.json')
  const { [name]: _, ...broken } = await loadKeys(file)
  await writeFile(file, JSON.stringify(broken))

  await expect(loadKeys(file)).rejects.toThrow(/is damaged, or older than this version\. .*"npm run reset"/)

  expect(JSON.parse(await readFile(file, 'utf8'))).toEqual(broken)
})

test('keys are made once, for nobody else to read', async () => {
  const file = join(folder, 'keys.json')

  const made = await loadKeys(file)

  expect(await loadKeys(file)).toEqual(made)
  expect((await stat(file)).mode & 0o777).toBe(0o600)
})

test('status shows the webhook secret and never the key', async () => {
  const keys = await loadKeys(join(folder, 'keys.json'))
  const config = readConfig({ PALISADE_PORT: '20000' })

  const lines = Object.fromEntries(statusLines(config, keys))

  expect(lines.STRIPE_WEBHOOK_SECRET).toBe(keys.stripe.webhookSecret)
  expect(lines.STRIPE_API_URL).toBe('http://127.0.0.1:20008')
  expect(Object.values(lines)).not.toContain(keys.stripe.secretKey)
})

test('a real key takes the place of the stand-in, and needs a webhook secret beside it', async () => {
  const keys = await loadKeys(join(folder, 'keys.json'))
  const STRIPE_SECRET_KEY = ['sk', 'test', 'real'].join('_')

  const config = readConfig({ STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRETS: 'new, old' })
  const lines = Object.fromEntries(statusLines(config, keys))

  expect(config.urls.stripe).toBeNull()
  expect(config.real.stripe).toEqual({ secretKey: STRIPE_SECRET_KEY, webhookSecrets: 'new, old' })
  expect([lines.STRIPE_WEBHOOK_SECRET, lines.STRIPE_API_URL]).toEqual(['new', undefined])
  expect(() => readConfig({ STRIPE_SECRET_KEY })).toThrow('STRIPE_WEBHOOK_SECRETS')
})

test('an account outlives a restart, and what falls due meanwhile happens afterwards', async () => {
  const world = await createWorld({ file: join(folder, 'stripe.json') })
  const shop = await createShop(world)
  const { id } = await subscribe(world, shop.monthly, shop.customer)

  world.restart()
  await world.advance(32 * day)
  const { data } = await world.stripe.invoices.list({ subscription: id })
  await world.close()

  expect(data.map(({ status, billing_reason }) => `${status} ${billing_reason}`)).toEqual([
    'paid subscription_cycle',
    'paid subscription_create',
  ])
  expect((await stat(join(folder, 'stripe.json'))).mode & 0o777).toBe(0o600)
})

test('an account whose file is damaged begins anew', async () => {
  const file = join(folder, 'stripe.json')
  await writeFile(file, '{"version":1')

  const world = await createWorld({ file })
  const { data } = await world.stripe.customers.list()
  await world.close()

  expect(data).toEqual([])
})

test.skipIf(!target().own)('the stack runs it beside its other parts', async () => {
  const port = (target().own?.port ?? 0) + 8

  const answer = await fetch(`http://127.0.0.1:${port}/v1/customers`)

  expect(answer.status).toBe(401)
})
