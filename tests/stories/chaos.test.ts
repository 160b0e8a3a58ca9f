/** A short run of `npm run chaos`: whatever happens to AI calls, nothing is lost, taken twice, or beyond a limit. */
import { expect, test } from 'vitest'
import { runChaos } from '../../scripts/chaos/run.ts'
import { target } from '../target.ts'

// It makes a database and processes of its own, to kill them.
test.runIf(target().own)(
  'after crashes, kills, hang-ups and duplicates every limit, balance and count is right',
  async () => {
    const { findings, answers } = await runChaos({ seed: 4, seconds: 25, callers: 8, crashes: 1, progress: () => {} })

    expect(findings).toEqual([])
    // It was no quiet run: calls went through, limits were reached, processes died under calls.
    expect(answers.ok).toBeGreaterThan(10)
    const refused = ['insufficient_credits', 'insufficient_quota', 'rate_limit_exceeded', 'model_not_found']
    expect(Object.keys(answers)).toEqual(expect.arrayContaining([...refused, 'hung up', 'torn']))
  },
  300_000,
)
