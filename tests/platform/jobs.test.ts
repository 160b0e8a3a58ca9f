/** The stand-in for pg_cron's and pg_net's workers, on a clock of the test's own. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import postgres from 'postgres'
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest'
import { startJobs } from '../../stack/platform/jobs.ts'
import { isGiven } from '../projects.ts'
import { target } from '../target.ts'

describe.skipIf(isGiven)('the workers of pg_cron and pg_net', () => {
  const adminUrl = target().superuserUrl ?? ''
  const sql = postgres(adminUrl, { max: 2, onnotice: () => {} })
  const start = Date.parse('2026-11-30T12:00:30Z')
  const minute = 60_000
  const clock = { now: start }
  const logs: string[] = []
  let jobs: ReturnType<typeof startJobs>
  const work = () =>
    startJobs({ adminUrl, urlFor: () => target().dbUrl, log: (line) => logs.push(line), now: () => clock.now })

  beforeEach(async () => {
    // Those of the project.
    await sql`delete from cron.job`
    await sql`delete from cron.job_run_details`
    clock.now = start
    jobs = work()
  })
  afterEach(() => jobs.stop())
  afterAll(() => sql.end({ timeout: 1 }))

  const schedule = (name: string, when: string, command = 'select 1') =>
    sql`select cron.schedule(${name}, ${when}, ${command})`
  const runs = async (name: string, status: string) => {
    const [row] = await sql`
    select count(*)::integer as n from cron.job_run_details d join cron.job j using (jobid)
    where j.jobname = ${name} and d.status = ${status}`
    return row?.n
  }

  /** Whoever asks for the lock waits until the test lets them. */
  async function held(): Promise<() => Promise<void>> {
    const holder = postgres(adminUrl, { max: 1, onnotice: () => {} })
    await holder`select pg_advisory_lock(13)`
    return async () => holder.end()
  }
  const waits = 'select pg_advisory_lock(13)'

  test('a job that hangs and a request without an answer hold up nothing', { timeout: 60_000 }, async () => {
    const silent = createServer(
      (request, response) => void (request.url === '/answer' ? response.end('here') : undefined),
    )
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const address = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`
    const release = await held()
    await sql`select net.http_get(${`${address}/never`}, timeout_milliseconds := 600000)`
    await schedule('hangs', '1 second', waits)
    await expect.poll(() => runs('hangs', 'running')).toBe(1)

    await schedule('quick', '1 second')
    const [request] = await sql`select net.http_get(${`${address}/answer`}) as id`
    for (let second = 1; second <= 3; second += 1) {
      clock.now += 1_000
      await expect.poll(() => runs('quick', 'succeeded')).toBeGreaterThanOrEqual(second)
    }

    await expect
      .poll(() => sql`select content from net._http_response where id = ${request?.id}`)
      .toEqual([{ content: 'here' }])
    expect(await runs('hangs', 'running')).toBe(1)
    await release()
    await expect.poll(() => runs('hangs', 'succeeded')).toBeGreaterThan(1)
    silent.closeAllConnections()
    silent.close()
  })

  test('no minute is lost to a job that lasts longer, nor to a clock that nobody read for a while', async () => {
    const release = await held()
    await schedule('every minute', '* * * * *', waits)
    clock.now += minute
    await expect.poll(() => runs('every minute', 'running')).toBe(1)

    clock.now += 3 * minute
    await release()

    await expect.poll(() => runs('every minute', 'succeeded')).toBe(4)
  })

  test('a job at a fixed time runs once, although the clock went over it twice', async () => {
    await schedule('at ten past', '10 12 * * *')
    await schedule('always', '*/2 * * * *')
    clock.now = Date.parse('2026-11-30T12:12:00Z')
    await expect.poll(() => runs('at ten past', 'succeeded')).toBe(1)
    clock.now = Date.parse('2026-11-30T12:10:00Z')
    await expect.poll(() => runs('always', 'succeeded')).toBe(2)

    expect(await runs('at ten past', 'succeeded')).toBe(1)
  })

  test('by seconds it goes on after the clock went forward and back', async () => {
    await schedule('often', '5 seconds')
    await expect.poll(() => runs('often', 'succeeded')).toBe(1)
    clock.now = start + 1_440 * minute
    await expect.poll(() => runs('often', 'succeeded')).toBe(2)

    clock.now = start
    await expect.poll(() => runs('often', 'succeeded')).toBe(3)
    clock.now = start + 5_000

    await expect.poll(() => runs('often', 'succeeded')).toBe(4)
  })

  test('a run that a crash cut off is called failed, and a stack that stops does not wait for a job that hangs', async () => {
    const release = await held()
    await schedule('hangs', '1 second', waits)
    await expect.poll(() => runs('hangs', 'running')).toBe(1)
    await jobs.stop()
    expect(await runs('hangs', 'failed')).toBe(1)
    await release()

    await sql`update cron.job_run_details set status = 'running', return_message = null`
    await sql`update cron.job set active = false`
    jobs = work()

    await expect
      .poll(() => sql`select status, return_message from cron.job_run_details`)
      .toEqual([{ status: 'failed', return_message: 'server restarted' }])
  })
})
