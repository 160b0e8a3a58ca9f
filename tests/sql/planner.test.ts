/** What plans depend on: as on hosted, or a plan that is checked here says nothing about the one there. */
import { expect, test } from 'vitest'
import { isGiven } from '../projects.ts'
import { withRollback } from '../support/sql.ts'

test.skipIf(isGiven)('the planner reckons with the costs and the memory that it has on hosted', async () => {
  await withRollback(async ({ sql }) => {
    const rows = await sql<{ name: string; setting: string }[]>`
      select name, current_setting(name) as setting from pg_settings
      where name in ('random_page_cost', 'seq_page_cost', 'effective_cache_size', 'work_mem', 'jit',
        'default_statistics_target', 'max_parallel_workers', 'max_parallel_workers_per_gather')`

    expect(Object.fromEntries(rows.map(({ name, setting }) => [name, setting]))).toEqual({
      random_page_cost: '1.1',
      seq_page_cost: '1',
      effective_cache_size: '768MB',
      work_mem: '3500kB',
      jit: 'off',
      default_statistics_target: '100',
      max_parallel_workers: '2',
      max_parallel_workers_per_gather: '1',
    })
  })
})
