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
    // It was no quiet run: calls went through, and others ended in several ways. Which ones they are is the machine's speed's choice.
    expect(answers.ok).toBeGreaterThan(0)
    expect(Object.keys(answers).length).toBeGreaterThan(4)
  },
  300_000,
)
