/** Which jobs start when, as pg_cron decides it: side by side, no job beside itself, no minute lost. */

/** `due` counts the minutes for which a run is due; `seconds` is the interval of a schedule by seconds, else null. */
export type Job = {
  jobid: string
  command: string
  username: string
  database: string
  seconds: number | null
  due: number
}

/** pg_cron's cron.max_running_jobs. */
const mostRunning = 32

/**
 * The minutes (since 1970) to look at when the clock shows `now` and was acted on up to `last`. As in cron: after a few minutes
 * all that were missed; after a jump of up to three hours jobs at a fixed time as if they had been there, those that run all
 * the time once; after a jump back those at a fixed time not again; after more than that as if nothing had been.
 */
export function dueMinutes(last: number, now: number): { wild: number[]; fixed: number[]; last: number } {
  const passed = now - last
  if (Math.abs(passed) > 180) return { wild: [now], fixed: [now], last: now }
  if (passed < 0) return { wild: [now], fixed: [], last }
  const missed = Array.from({ length: passed }, (_, index) => last + 1 + index)
  return { wild: passed > 5 ? [now] : missed, fixed: missed, last: now }
}

type Task = { job: Job; pending: number; isRunning: boolean; startedAt: number | null }

/** `run` resolves when a run has ended; how it ended is its own affair. */
export function createScheduler(run: (job: Job) => Promise<void>) {
  const tasks = new Map<string, Task>()
  let running = 0
  let isStopped = false

  const start = (at: number) => {
    for (const task of tasks.values()) {
      if (isStopped || running >= mostRunning) return
      if (task.pending === 0 || task.isRunning) continue
      task.pending -= 1
      task.isRunning = true
      task.startedAt = at
      running += 1
      run(task.job)
        .catch(() => {}) // The database is away: the next tick says so.
        .finally(() => {
          task.isRunning = false
          running -= 1
          start(at)
        })
    }
  }
  return {
    /** All active jobs, with what became due since the last time; `at` is now, in milliseconds. */
    take(jobs: Job[], at: number): void {
      for (const job of jobs) {
        const task = tasks.get(job.jobid) ?? { job, pending: 0, isRunning: false, startedAt: null }
        tasks.set(job.jobid, task)
        task.job = job
        // However many intervals a run took: one more follows at once.
        if (job.seconds !== null)
          task.pending = Math.max(task.pending, hasPassed(task.startedAt, at, job.seconds) ? 1 : 0)
        else task.pending += job.due
      }
      const active = new Set(jobs.map(({ jobid }) => jobid))
      for (const [id, task] of tasks) {
        if (active.has(id)) continue
        task.pending = 0
        if (!task.isRunning) tasks.delete(id)
      }
      start(at)
    },
    stop(): void {
      isStopped = true
    },
  }
}

/** A start in the future means that the clock went back since. */
const hasPassed = (startedAt: number | null, at: number, seconds: number) =>
  startedAt === null || at < startedAt || at - startedAt >= seconds * 1_000
