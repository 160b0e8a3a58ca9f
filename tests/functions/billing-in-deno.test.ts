/** The client for Stripe in Deno, with the functions' own import map and permissions, over a real connection. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { functionFiles, root } from '../../stack/config.ts'
import { denoBinary, denoOffline } from '../../stack/platform/functions.ts'
import { movedClock } from '../../stack/platform/postgres.ts'
import { createWorld } from '../support/stripe.ts'
import { customer, event, makeSecret, sign } from './billing-world.ts'

test('Deno asks Stripe and checks its signatures', async () => {
  const shop = await createWorld()
  const [payload, secret] = [JSON.stringify(event('customer.created', customer())), makeSecret()]
  const readable = ['functions', 'node_modules', 'tests/support'].map((folder) => join(root, folder)).join(',')
  const flags = [...denoOffline, '--allow-env', '--allow-net']
  const program = fileURLToPath(new URL('../support/ask-stripe.ts', import.meta.url))
  const files = ['--config', join(root, 'functions/deno.json'), program]
  const env = {
    ...movedClock(),
    ...{ STRIPE_API_URL: shop.url, STRIPE_SECRET_KEY: shop.secretKey, PAYLOAD: payload, SECRET: secret },
    SIGNATURE: sign(payload, secret, Math.floor(Date.now() / 1000)),
    DENO_DIR: functionFiles.cache,
    NO_COLOR: '1',
  }

  const run = promisify(execFile)(denoBinary(), ['run', ...flags, `--allow-read=${readable}`, ...files], { env })
  const { stdout } = await run.finally(() => shop.close())

  expect(JSON.parse(stdout)).toEqual({
    is_one_customer: true,
    found: true,
    missing: true,
    event: 'evt_1',
    forged: null,
  })
})
