/** Gives the file that runs next the stack of the place that it runs in, once that is ready. */
import { existsSync, readFileSync } from 'node:fs'
import { inject, vi } from 'vitest'
import { setTarget } from '../target.ts'

const stacks = inject('stacks')
const stack = stacks[(Number(process.env.VITEST_POOL_ID) - 1) % stacks.length]
if (!stack) throw new Error('There is no stack for this file.')
const { outcome, target } = stack
if (outcome) {
  await vi.waitUntil(() => existsSync(outcome), { timeout: 300_000, interval: 50 })
  const problem = readFileSync(outcome, 'utf8')
  if (problem) throw new Error(problem)
}
setTarget('stack', target)
