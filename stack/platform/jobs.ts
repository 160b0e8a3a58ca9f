/** The part of pg_cron and pg_net that needs a process: starts due jobs and sends queued requests, as their workers do. */
import postgres, { type Sql } from 'postgres'
import { createScheduler, dueMinutes, type Job } from './jobs/schedule.ts'
import { createSender } from './jobs/send-requests.ts'

type JobsOptions = {
  /** Superuser URL: the workers of the real extensions are background workers of the server. */
  adminUrl: string
  urlFor(role: string): string | undefined
  log(line: string): void
  /** Another clock: for tests. */
  now?: () => number
}

const tickMs = 1_000
/** For jobs that still run when the stack stops. */
const graceMs = 2_000

export function startJobs({ adminUrl, urlFor, log, now = Date.now }: JobsOptions): { stop(): Promise<void> } {
  const admin = postgres(adminUrl, { max: 4, onnotice: () => {} })
  const runner = createRunner(admin, urlFor, log)
  const scheduler = createScheduler(runner.run)
  const sender = createSender(admin, log)
  let minute = Math.floor(now() / 60_000)
  let seenMinute = minute
  let ticking: Promise<void> | undefined
  /** At first, too: the stack before this one may have been killed. */
  let wasAway = true
  let isTold = false

  const tick = async () => {
    const at = now()
    const thisMinute = Math.floor(at / 60_000)
    const due = thisMinute === seenMinute ? { wild: [], fixed: [], last: minute } : dueMinutes(minute, thisMinute)
    if (wasAway) await runner.closeLost()
    wasAway = false
    scheduler.take(await readJobs(admin, due), at)
    // Only now: a minute that the database did not answer in is not lost.
    minute = due.last
    seenMinute = thisMinute
    await sender.send()
    isTold = false
  }
  const timer = setInterval(() => {
    ticking ??= tick()
      .catch((error: unknown) => {
        if (!isTold) log(`jobs: ${messageOf(error)}`)
        isTold = true
        wasAway = true
      })
      .finally(() => {
        ticking = undefined
      })
  }, tickMs)

  return {
    async stop() {
      clearInterval(timer)
      scheduler.stop()
      sender.stop()
      await ticking
      await runner.stop(graceMs)
      await admin.end({ timeout: 5 })
    },
  }
}

/** How often each job is due: a schedule with a star in its minutes or hours counts other minutes than one at a fixed time. */
async function readJobs(admin: Sql, { wild, fixed }: { wild: number[]; fixed: number[] }): Promise<Job[]> {
  const [there] = await admin`select to_regclass('cron.job') is not null as cron`
  if (!there?.cron) return []
  const times = (minutes: number[]) => minutes.map((minute) => new Date(minute * 60_000).toISOString())
  return admin<Job[]>`
    select j.jobid::text, j.command, j.username, j.database, cron._interval_seconds(j.schedule) as seconds,
      (select count(*)::integer
        from unnest(case when f.is_wild then ${times(wild)}::timestamptz[] else ${times(fixed)}::timestamptz[] end) m
        where cron._is_due(j.schedule, m)) as due
    from cron.job j
      cross join lateral (
        select coalesce(s.fields[1] like '*%' or s.fields[2] like '*%', false) as is_wild
        from cron._fields(j.schedule) s (fields)) f
    where j.active`
}

/** Runs jobs, each in a session of its own, and writes down how they end. */
function createRunner(admin: Sql, urlFor: JobsOptions['urlFor'], log: (line: string) => void) {
  const sessions = new Set<Sql>()
  const running = new Map<Promise<void>, string>()

  const runAs = async (job: Job, url: string): Promise<{ status: string; said: string }> => {
    const session = postgres(url, { max: 1, onnotice: () => {} })
    sessions.add(session)
    try {
      const result = await session.unsafe(job.command)
      return { status: 'succeeded', said: result.command ? `${result.command} ${result.count ?? ''}`.trim() : '1 row' }
    } catch (error) {
      log(`job ${job.command}: ${messageOf(error)}`)
      return { status: 'failed', said: messageOf(error) }
    } finally {
      sessions.delete(session)
      await session.end({ timeout: 1 })
    }
  }
  const runAndNote = async (job: Job, runid: string) => {
    const url = urlFor(job.username)
    const { status, said } = url
      ? await runAs(job, url)
      : { status: 'failed', said: `role ${job.username} has no login here` }
    await admin`
      update cron.job_run_details set status = ${status}, return_message = ${said}, end_time = now() where runid = ${runid}`
  }
  return {
    async run(job: Job): Promise<void> {
      const [row] = await admin<{ runid: string }[]>`
        insert into cron.job_run_details (jobid, job_pid, database, username, command, status, start_time)
        values (${job.jobid}, null, ${job.database}, ${job.username}, ${job.command}, 'running', now()) returning runid::text`
      const runid = row?.runid ?? ''
      const run = runAndNote(job, runid)
      running.set(run, runid)
      await run.finally(() => running.delete(run))
    },
    /** Runs that a crash of the database, or of the stack before this one, cut off; in pg_cron's words. */
    async closeLost(): Promise<void> {
      const [there] = await admin`select to_regclass('cron.job_run_details') is not null as cron`
      if (there?.cron)
        await admin`
          update cron.job_run_details set status = 'failed', return_message = 'server restarted'
          where status in ('starting', 'running') and runid <> all (${[...running.values()]}::bigint[])`
    },
    async stop(afterMs: number): Promise<void> {
      const all = Promise.allSettled(running.keys())
      const timer = setTimeout(() => {
        for (const session of sessions) void session.end({ timeout: 0 })
      }, afterMs)
      await all
      clearTimeout(timer)
    },
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
