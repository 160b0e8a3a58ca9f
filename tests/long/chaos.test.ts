/** Three minutes of `npm run chaos` with two crashes and calls that nobody has seen before; tests/stories has ten seconds of it. */
import { expect, test } from 'vitest'
import { runChaos } from '../../scripts/chaos/run.ts'

const seed = Math.floor(Math.random() * 1e9)

test(`after three minutes of chaos everything adds up (seed ${seed})`, async () => {
  const { findings, answers } = await runChaos({ seed, seconds: 180, callers: 16, crashes: 2, progress: () => {} })

  expect(findings).toEqual([])
  expect(answers.ok).toBeGreaterThan(100)
}, 1_800_000)
