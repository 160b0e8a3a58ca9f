import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  // As in functions/deno.json: ccxt exports no single exchanges.
  resolve: { alias: [{ find: /^ccxt\//, replacement: join(import.meta.dirname, 'node_modules/ccxt/js/src/') }] },
  test: {
    include: ['tests/**/*.test.ts'],
    globalSetup: ['tests/global-setup.ts'],
    // One database and one stack for all: files take turns, tests inside a file race on purpose.
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Waits end as soon as what they wait for is there; a machine that stalls for seconds is no failure.
    expect: { poll: { timeout: 20_000 } },
  },
})
