/** The part of pg_cron and pg_net that needs a process: runs due jobs and sends queued requests, as their workers do. */
import postgres, { type Sql } from 'postgres'

type JobsOptions = {
  /** Superuser URL: the workers of the real extensions are background workers of the server. */
  adminUrl: string
  urlFor(role: string): string | undefined
  log(line: string): void
}

type Job = { jobid: string; schedule: string; command: string; username: string; database: string }

export function startJobs(options: JobsOptions): { stop(): Promise<void> } {
  const admin = postgres(options.adminUrl, { max: 3, onnotice: () => {} })
  const lastRun = new Map<string, number>()
  let running: Promise<unknown> = Promise.resolve()
  let lastMinute = 0

  const tick = async () => {
    const now = Date.now()
    const minute = Math.floor(now / 60_000)
    const everyMinute = minute !== lastMinute
    lastMinute = minute
    const jobs = await dueJobs(admin, everyMinute, new Date(minute * 60_000), lastRun, now)
    await Promise.all([...jobs.map((job) => runJob(admin, job, options)), sendRequests(admin)])
  }
  const timer = setInterval(() => {
    running = running.then(tick).catch((error: unknown) => options.log(`jobs: ${messageOf(error)}`))
  }, 1_000)

  return {
    async stop() {
      clearInterval(timer)
      await running
      await admin.end({ timeout: 5 })
    },
  }
}

/** Jobs by minute are due when the minute turns; jobs by seconds when their interval has passed since their last run. */
async function dueJobs(admin: Sql, everyMinute: boolean, minute: Date, lastRun: Map<string, number>, now: number) {
  const [there] = await admin`select to_regclass('cron.job') is not null as cron`
  if (!there?.cron) return []
  const rows = await admin<(Job & { seconds: number | null; due: boolean })[]>`
    select jobid::text, schedule, command, username, database, cron._interval_seconds(schedule) as seconds,
      ${everyMinute} and cron._is_due(schedule, ${minute.toISOString()}::timestamptz) as due
    from cron.job where active`
  return rows.filter((job) => {
    if (job.seconds === null) return job.due
    const isDue = now - (lastRun.get(job.jobid) ?? 0) >= job.seconds * 1_000
    if (isDue) lastRun.set(job.jobid, now)
    return isDue
  })
}

async function runJob(admin: Sql, job: Job, options: JobsOptions): Promise<void> {
  const url = options.urlFor(job.username)
  const [run] = await admin<{ runid: string }[]>`
    insert into cron.job_run_details (jobid, job_pid, database, username, command, status, start_time)
    values (${job.jobid}, null, ${job.database}, ${job.username}, ${job.command}, 'running', now()) returning runid::text`
  const finish = (status: string, message: string) => admin`
    update cron.job_run_details set status = ${status}, return_message = ${message}, end_time = now()
    where runid = ${run?.runid ?? null}`
  if (!url) {
    await finish('failed', `role ${job.username} has no login here`)
    return
  }
  const session = postgres(url, { max: 1, onnotice: () => {} })
  try {
    const result = await session.unsafe(job.command)
    await finish('succeeded', result.command ? `${result.command} ${result.count ?? ''}`.trim() : '1 row')
  } catch (error) {
    options.log(`job ${job.command}: ${messageOf(error)}`)
    await finish('failed', messageOf(error))
  } finally {
    await session.end({ timeout: 1 })
  }
}

type NetRequest = {
  id: string
  method: string
  url: string
  headers: Record<string, string> | null
  body: Buffer | null
  timeout_milliseconds: number
}

async function sendRequests(admin: Sql): Promise<void> {
  const [there] = await admin`select to_regclass('net.http_request_queue') is not null as net`
  if (!there?.net) return
  const requests = await admin<NetRequest[]>`
    delete from net.http_request_queue where id in (
      select id from net.http_request_queue order by id limit 50 for update skip locked)
    returning id::text, method::text, url, headers, body, timeout_milliseconds`
  await Promise.all(requests.map((request) => sendRequest(admin, request)))
  await admin`delete from net._http_response where created < now() - interval '6 hours'`
}

async function sendRequest(admin: Sql, request: NetRequest): Promise<void> {
  try {
    const response = await fetch(request.url, {
      method: request.method,
      headers: request.headers ?? {},
      body: request.body ? new Uint8Array(request.body) : null,
      signal: AbortSignal.timeout(request.timeout_milliseconds),
    })
    const content = await response.text()
    await admin`
      insert into net._http_response (id, status_code, content_type, headers, content, timed_out)
      values (${request.id}, ${response.status}, ${response.headers.get('content-type')},
        ${admin.json(Object.fromEntries(response.headers))}, ${content}, false)`
  } catch (error) {
    const timedOut = error instanceof Error && error.name === 'TimeoutError'
    await admin`
      insert into net._http_response (id, timed_out, error_msg)
      values (${request.id}, ${timedOut}, ${messageOf(error)})`
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
