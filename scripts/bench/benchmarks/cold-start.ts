/** From spawn to the first 200: the function `ai`, which then has asked the database, beside an empty handler in Deno. */

import { setTimeout as sleep } from 'node:timers/promises'
import { functionFiles } from '../../../stack/config.ts'
import { startFunctions } from '../../../stack/platform/functions.ts'
import { freePort } from '../../../stack/platform/scratch.ts'
import { figureResult } from '../results.ts'
import type { BenchResult, BenchWorld } from '../types.ts'
import { startDeno } from './gateway/programs.ts'
import { quantile } from './gateway/quantile.ts'
import { seed } from './gateway/seed.ts'

const projectUrl = 'http://127.0.0.1:9'
const patienceMs = 60_000

/** @public Called by the name of its file. */
export async function bench({
  createDatabase,
  superuserUrl,
  progress,
  scale,
  rounds,
}: BenchWorld): Promise<BenchResult[]> {
  const url = await createDatabase('cold_start')
  const { tokens, jwks, gatewayUrl } = await seed(superuserUrl('cold_start'), 10, `${projectUrl}/v1`, projectUrl)
  const env = { SUPABASE_URL: projectUrl, SUPABASE_DB_URL: url, AI_DB_URL: gatewayUrl, SUPABASE_JWKS: jwks }
  const sides = {
    empty: async (port: number) => startDeno(new URL('./gateway/empty.ts', import.meta.url), [String(port)]),
    ai: async (port: number) => startFunctions({ files: functionFiles, port, env, watch: false, log: () => {} }),
  }
  const times = { empty: [] as number[], ai: [] as number[] }
  const runs = rounds ?? Math.max(5, Math.round(30 * scale))
  // The first of each fills caches and does not count.
  for (let run = -1; run < runs; run += 1)
    for (const name of run % 2 === 0 ? (['empty', 'ai'] as const) : (['ai', 'empty'] as const)) {
      const port = await freePort()
      const startedAt = performance.now()
      const program = await sides[name](port)
      try {
        const path = name === 'ai' ? 'ai/v1/models' : ''
        await firstOk(`http://127.0.0.1:${port}/${path}`, tokens[0] ?? '', startedAt)
        if (run >= 0) times[name].push(performance.now() - startedAt)
      } finally {
        await program.stop()
      }
      if (run >= 0) progress(`start ${run + 1} of ${runs}, ${name}: ${times[name].at(-1)?.toFixed(0)} ms`)
    }
  // The fastest tenth: what else the machine does only ever adds time.
  const fastest = (name: keyof typeof times) => quantile(times[name], 0.1)
  return [
    figureResult(
      'coldStart',
      fastest('ai') / fastest('empty'),
      `the fastest tenth of ${runs}; median ${quantile(times.ai, 0.5).toFixed(0)} ms beside ${quantile(times.empty, 0.5).toFixed(0)} ms`,
    ),
    { name: 'cold start of an empty handler', unit: 'ms', value: fastest('empty') },
    { name: 'cold start of ai', unit: 'ms', value: fastest('ai') },
  ]
}

async function firstOk(url: string, token: string, startedAt: number): Promise<void> {
  const headers = { authorization: `Bearer ${token}` }
  for (; performance.now() - startedAt < patienceMs; await sleep(3)) {
    const status = await fetch(url, { headers }).then(
      async (response) => (await response.arrayBuffer()) && response.status,
      () => undefined,
    )
    if (status === 200) return
  }
  throw new Error(`${url} did not answer with 200`)
}
