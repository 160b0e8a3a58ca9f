/** A short run of `npm run chaos`: whatever happens to AI calls, nothing is lost, taken twice, or beyond a limit. */
import { expect, test } from 'vitest'
import { runChaos } from '../../scripts/chaos/run.ts'

// It makes a database and processes of its own, to kill them.
test('after crashes, kills, hang-ups and duplicates every limit, balance and count is right', async () => {
  // It is no quiet run: calls go through, limits are reached, processes die under calls.
  const refusals = ['insufficient_credits', 'insufficient_quota', 'rate_limit_exceeded', 'model_not_found']
  const kinds = ['ok', ...refusals, 'hung up', 'torn']
  const hasSeenEnough = (answers: Record<string, number>) =>
    kinds.every((kind) => kind in answers) && (answers.ok ?? 0) > 10
  const options = { seed: 4, seconds: 10, callers: 8, crashes: 1, hasSeenEnough, progress: () => {} }
  const { findings, answers } = await runChaos(options)

  expect(findings).toEqual([])
  expect(Object.keys(answers)).toEqual(expect.arrayContaining(kinds))
  expect(answers.ok).toBeGreaterThan(10)
}, 480_000)
