/** A short run of `npm run chaos` whose two gateways share the few sessions of PgBouncer. */
import { expect, test } from 'vitest'
import { runChaos } from '../../scripts/chaos/run.ts'
import { startPgBouncer } from '../../scripts/shared/pgbouncer.ts'
import { describeWithDebian } from '../support/debian.ts'

describeWithDebian(['pgbouncer'], 'by way of PgBouncer', () => {
  test('after crashes, kills, hang-ups and duplicates every limit, balance and count is right', async () => {
    // Other kinds of answers are for the run without a pooler, in tests/stories.
    const kinds = ['ok', 'rate_limit_exceeded', 'hung up', 'torn']
    const hasSeenEnough = (answers: Record<string, number>) =>
      kinds.every((kind) => kind in answers) && (answers.ok ?? 0) > 10
    const { findings, answers } = await runChaos({
      ...{ seed: 4, seconds: 10, callers: 8, crashes: 1, hasSeenEnough, progress: () => {} },
      detour: ({ port, keys }) => startPgBouncer({ port, superuserPassword: keys.passwords.supabase_admin }),
    })

    expect(findings).toEqual([])
    expect(Object.keys(answers)).toEqual(expect.arrayContaining(kinds))
  }, 480_000)
})
