import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config'
import { files, isGiven } from './tests/projects.ts'

/** Files of a project run so many at a time; the projects of one group share these places. */
const workers = availableParallelism() + 1

const project = (
  name: keyof typeof files,
  test: TestProjectInlineConfiguration['test'],
): TestProjectInlineConfiguration => ({ extends: true, test: { name, ...files[name], ...test } })

const onDatabase = {
  globalSetup: ['tests/setup/database-server.ts'],
  setupFiles: ['tests/setup/own-database.ts'],
  isolate: false,
  maxWorkers: workers,
}

const onStack = { globalSetup: ['tests/setup/stacks.ts'], setupFiles: ['tests/setup/own-stack.ts'] }

const everything = [
  project('unit', { isolate: false, maxWorkers: workers }),
  ...(isGiven ? [] : [project('database', onDatabase)]),
  // What they start is theirs, whatever database or target the environment names.
  project('cluster', { maxWorkers: workers, env: { PALISADE_DB_URL: '', API_URL: '' } }),
  project('stack', { ...onStack, maxWorkers: isGiven ? 1 : 2, sequence: { groupOrder: 1 } }),
]
const long = [project('long', { ...onDatabase, env: { PROPERTY_TIMES: '5' } })]
/** One stack, and chaos beside it. */
const byPooler = [
  project('pooler', { ...onStack, maxWorkers: 1 }),
  project('poolerCluster', { maxWorkers: 1, sequence: { groupOrder: 1 } }),
]

export default defineConfig({
  // As in functions/deno.json: ccxt exports no single exchanges.
  resolve: { alias: [{ find: /^ccxt\//, replacement: join(import.meta.dirname, 'node_modules/ccxt/js/src/') }] },
  test: {
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Waits end as soon as what they wait for is there; a machine that stalls for seconds is no failure.
    expect: { poll: { timeout: 20_000 } },
    projects: process.env.PALISADE_LONG ? long : process.env.PALISADE_TEST_POOLER ? byPooler : everything,
  },
})
