/** What runs by itself, and what it leaves behind when it fails. */
import { setTimeout as rest } from 'node:timers/promises'
import { byHand, bySql, type Check, judge, literal, type Problem, type World } from './check.ts'
import type { Job } from './reference.ts'

type Scheduled = Job & { active: boolean; username: string }

const readJobs = ({ look }: World) =>
  look(
    (sql) =>
      sql<
        Scheduled[]
      >`select jobname as name, schedule, command, active, username from cron.job where jobname is not null`,
  )

const scheduled: Check = {
  name: 'jobs-scheduled',
  tells: 'Every job of the migrations is in cron.job with its schedule and its command, and is active.',
  mends: 'Schedule it again, or make it active.',
  async find(world) {
    const [{ jobs }, there] = [await world.reference(), await readJobs(world)]
    const [cron] = await world.sql<
      { version: string }[]
    >`select extversion as version from pg_extension where extname = 'pg_cron'`
    const found = new Map(there.map((job) => [job.name, job]))
    const problems = jobs.flatMap((job): Problem[] => {
      const again = bySql(
        `select cron.schedule(${literal(job.name)}, ${literal(scheduleFor(job, cron?.version))}, ${literal(job.command)});`,
      )
      const is = found.get(job.name)
      if (!is) return [{ what: `job ${job.name} is not scheduled`, mend: again }]
      const other =
        is.command !== job.command
          ? 'another command'
          : is.schedule !== scheduleFor(job, cron?.version)
            ? 'another schedule'
            : undefined
      if (is.username !== 'postgres')
        return [{ what: `job ${job.name} runs as ${is.username} and not as postgres`, mend: ofRole(job) }]
      if (other) return [{ what: `job ${job.name} has ${other} than in the migrations`, mend: again }]
      const activate = `select cron.alter_job(jobid, active => true) from cron.job where jobname = ${literal(job.name)};`
      return is.active ? [] : [{ what: `job ${job.name} is not active`, mend: bySql(activate) }]
    })
    return judge(problems, `${jobs.length} jobs`)
  },
}

/** Only a superuser may change whose a job is. */
const ofRole = ({ name }: Job) =>
  byHand(
    `A superuser has to take it away (delete from cron.job where jobname = ${literal(name)}); then schedule it again.`,
  )

/** pg_cron before 1.5 knows no seconds: there it is every minute. */
const scheduleFor = ({ schedule }: Job, version = '1.6') => {
  const [major = 1, minor = 0] = version.split(/[.-]/).map(Number)
  const knowsSeconds = major > 1 || minor >= 5
  return /seconds?$/.test(schedule) && !knowsSeconds ? '* * * * *' : schedule
}

const firstRunMs = 65_000
const secondsOf = (schedule: string) =>
  /^\d+ seconds?$/.test(schedule) ? Number.parseInt(schedule, 10) : schedule === '* * * * *' ? 60 : undefined

const running: Check = {
  name: 'jobs-run',
  tells: 'Jobs run: those of seconds and minutes did a moment ago, and the last run of none failed.',
  mends:
    'Run the command of a failing job by hand and see what it says; start the worker of pg_cron, which comes with the server.',
  async find(world) {
    const frequent = (await readJobs(world)).filter(
      ({ active, schedule }) => active && secondsOf(schedule) !== undefined,
    )
    await firstRun(world, frequent.length)
    const rows = await world.look(
      (sql) => sql<
        { name: string; schedule: string; command: string; failed: boolean; said: string | null; age: number | null }[]
      >`
        select j.jobname as name, j.schedule, j.command, coalesce(r.status = 'failed', false) as failed, r.return_message as said,
          extract(epoch from clock_timestamp() - (select max(d.start_time) from cron.job_run_details d where d.jobid = j.jobid))::float8 as age
        from cron.job j left join lateral (
          select d.status, d.return_message from cron.job_run_details d
          where d.jobid = j.jobid and d.status in ('succeeded', 'failed') order by d.runid desc limit 1) r on true
        where j.active and j.jobname is not null`,
    )
    const failing = rows.filter(({ failed }) => failed)
    return judge(
      [
        ...failing.map(({ name, command, said }) => ({
          what: `the last run of job ${name} failed: ${firstLine(said)}`,
          mend: bySql(`${command.replace(/;\s*$/, '')};   -- fails with the reason; what it names is to be mended`),
        })),
        ...lateProblems(rows),
      ],
      `${rows.length} jobs, none failing`,
    )
  },
}

/** A job that never ran may have been scheduled a moment ago; unless none of them runs. */
function lateProblems(rows: { name: string; schedule: string; age: number | null }[]): Problem[] {
  const frequent = rows.flatMap(({ name, schedule, age }) => {
    const every = secondsOf(schedule)
    // Three turns, and a minute for a server that has just started.
    return every === undefined ? [] : [{ name, age, isInTime: age !== null && age <= every * 3 + 60 }]
  })
  const mend = byHand(
    'Is pg_cron in shared_preload_libraries, and cron.database_name this database? On hosted Supabase restart the project.',
  )
  if (frequent.length > 0 && !frequent.some(({ isInTime }) => isInTime))
    return [{ what: 'no job has run for minutes: pg_cron does not work', mend }]
  return frequent.flatMap(({ name, age, isInTime }) =>
    isInTime || age === null
      ? []
      : [{ what: `job ${name} ran ${Math.round(age / 60)} minutes ago, and is due every minute or more often`, mend }],
  )
}

const firstLine = (text: string | null) => (text ?? '').split('\n')[0]?.slice(0, 200) ?? ''

/** A project that was deployed a moment ago has no run to show yet. */
async function firstRun({ sql }: World, frequent: number): Promise<void> {
  for (let waited = 0; frequent > 0 && waited < firstRunMs; waited += 500) {
    const [row] = await sql`select exists (select from cron.job_run_details) as any`
    if (row?.any) return
    await rest(500)
  }
}

const answerMs = 20_000

const reaching: Check = {
  name: 'jobs-reach-functions',
  tells:
    'The database reaches the function jobs with the address of jobs.functions_url and the key palisade_secret_key of Vault: it asks once, through pg_net.',
  mends: 'Set the address, or put the secret key of the project into Vault.',
  async find(world) {
    const { apiUrl } = world
    const [row] = await world.look(
      (sql) => sql<{ url: string | null; is_keyed: boolean }[]>`
        select nullif(private.setting('jobs.functions_url') #>> '{}', '') as url,
          exists (select from vault.decrypted_secrets s where s.name = 'palisade_secret_key') as is_keyed`,
    )
    const address = apiUrl ? `${apiUrl}/functions/v1` : 'https://YOUR_REF.supabase.co/functions/v1'
    const mendAddress = bySql(
      `update private.settings set value = ${literal(JSON.stringify(address))} where key = 'jobs.functions_url';`,
    )
    const mendKey = byHand(
      `As role postgres, with the secret key in place of the dots: select ${row?.is_keyed ? "vault.update_secret(id, 'sb_secret_...') from vault.secrets where name = 'palisade_secret_key'" : "vault.create_secret('sb_secret_...', 'palisade_secret_key')"};${world.kind === 'local' ? ' The local stack does it at its next start.' : ''}`,
    )
    if (!row?.url)
      return { wrong: [{ what: 'jobs.functions_url is not set: jobs call no functions', mend: mendAddress }] }
    if (!row.is_keyed)
      return { wrong: [{ what: 'Vault has no palisade_secret_key: jobs call no functions', mend: mendKey }] }
    const answer = await askThroughDatabase(world, row.url)
    if (answer === undefined)
      return {
        wrong: [
          {
            what: `pg_net did not ask within ${answerMs / 1000} s`,
            mend: byHand('Is pg_net in shared_preload_libraries? Restart its worker: select net.worker_restart();'),
          },
        ],
      }
    if ('error' in answer)
      return {
        wrong: [{ what: `the database does not reach ${row.url}: ${firstLine(answer.error)}`, mend: mendAddress }],
      }
    // The endpoint looks at the key first; of this path it knows nothing.
    if (answer.status === 401)
      return { wrong: [{ what: 'the function jobs does not take the key in Vault', mend: mendKey }] }
    if (answer.status !== 404 || !answer.isOurs)
      return {
        wrong: [{ what: `${row.url}/jobs answers ${answer.status} and is not the function jobs`, mend: mendAddress }],
      }
    return { ok: `${row.url} takes the key in Vault` }
  },
}

type Answer = { error: string } | { status: number; isOurs: boolean }

/** Committed, since the worker sees nothing else: one request to an address without effect. */
async function askThroughDatabase({ sql }: World, url: string): Promise<Answer | undefined> {
  const [asked] = await sql<{ id: string }[]>`
    select net.http_get(url => rtrim(${url}, '/') || '/jobs/doctor',
      headers => jsonb_build_object('x-job-token', private.job_token('doctor')), timeout_milliseconds => 10000)::text as id`
  for (let waited = 0; waited < answerMs; waited += 250) {
    const [row] = await sql<{ status: number | null; error: string | null; content: string | null }[]>`
      select status_code as status, coalesce(error_msg, case when timed_out then 'no answer in time' end) as error, content
      from net._http_response where id = ${asked?.id ?? null}::bigint`
    if (row)
      return row.status === null
        ? { error: row.error ?? 'no answer' }
        : { status: row.status, isOurs: row.content?.includes('"not_found"') ?? false }
    await rest(250)
  }
  return undefined
}

const makers: Record<string, string> = {
  'public.ai_calls': 'create_ai_call_partitions',
  'private.audit_log': 'create_audit_partitions',
  'public.portfolio_snapshots': 'create_portfolio_partitions',
}

const partitions: Check = {
  name: 'partitions',
  tells:
    'Calls, audit log and portfolio snapshots have partitions for this month and the next two; realtime.messages has one for today where Realtime makes them by day.',
  mends: 'Make them with the function that the daily job runs; restart Realtime for its own.',
  async find({ look }) {
    const [missing, days] = await look(async (sql) => {
      const months = await sql<{ parent: string; partition: string }[]>`
        select t.parent, t.partition from unnest(${Object.keys(makers)}::text[]) parent cross join generate_series(0, 2) ahead
          cross join lateral (select parent, format('private.%s_%s', split_part(parent, '.', 2),
            to_char(date_trunc('month', now() at time zone 'UTC') + make_interval(months => ahead), 'YYYYMM')) as partition) t
        where not exists (select from pg_inherits i where i.inhparent = to_regclass(t.parent) and i.inhrelid = to_regclass(t.partition))`
      const [messages] = await sql<{ by_day: boolean; today: boolean }[]>`
        select coalesce(bool_or(c.relname ~ '^messages_\\d{4}_\\d\\d_\\d\\d$'), false) as by_day,
          coalesce(bool_or(c.relname = 'messages_' || to_char(now() at time zone 'UTC', 'YYYY_MM_DD')), false) as today
        from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = to_regclass('realtime.messages')`
      return [[...months], messages] as const
    })
    const stale = days?.by_day && !days.today
    return judge(
      [
        ...missing.map(({ parent, partition }) => ({
          what: `${parent} has no partition ${partition}`,
          mend: bySql(`select private.${makers[parent]}();`),
        })),
        ...(stale
          ? [
              {
                what: 'realtime.messages has no partition for today',
                mend: byHand('Restart Realtime: it makes them when it starts and every day.'),
              },
            ]
          : []),
      ],
      'made for this month and the next two',
    )
  },
}

type GivenUp = Record<'mails' | 'events' | 'late_mails' | 'late_events', number> &
  Record<'mail_error' | 'event_error', string | null>

const dead: Check = {
  name: 'dead',
  tells: 'No mail and no event of Stripe was given up, and none waits that should have been taken long ago.',
  mends: 'See why in the column error, mend that, and let them be tried again.',
  async find({ look }) {
    const [row] = await look(
      (sql) => sql<GivenUp[]>`
        select (select count(*)::integer from private.mails where state = 'dead') as mails,
          (select max(error) from private.mails where state = 'dead') as mail_error,
          (select count(*)::integer from private.stripe_events where state = 'dead') as events,
          (select max(error) from private.stripe_events where state = 'dead') as event_error,
          (select count(*)::integer from private.mails where state = 'waiting' and next_attempt_at < now() - interval '15 minutes') as late_mails,
          (select count(*)::integer from private.stripe_events where state = 'waiting' and next_attempt_at < now() - interval '15 minutes') as late_events`,
    )
    const late = byHand('See what the checks of jobs and mail say.')
    const all: [number | undefined, string, Problem['mend']][] = [
      [
        row?.mails,
        `mails were given up: ${firstLine(row?.mail_error ?? null)}`,
        bySql(
          "update private.mails set state = 'waiting', attempts = 0, next_attempt_at = now() where state = 'dead';",
        ),
      ],
      [
        row?.events,
        `events of Stripe were given up: ${firstLine(row?.event_error ?? null)}`,
        bySql('select private.retry_stripe_events();'),
      ],
      [row?.late_mails, 'mails wait for more than 15 minutes', late],
      [row?.late_events, 'events of Stripe wait for more than 15 minutes', late],
    ]
    return judge(
      all.flatMap(([count, what, mend]) => (count ? [{ what: `${count} ${what}`, mend }] : [])),
      'nothing was given up',
    )
  },
}

const ledgers: Check = {
  name: 'ledgers',
  tells:
    'Balances are the sums of their entries (private.verify_accounts), gates and limits are what they come from (private.compare_account_gates, private.compare_account_limits), and the audit chain of this month is whole.',
  mends: 'None mends itself: find out who wrote, keep the evidence, and restore what is missing from a backup.',
  async find({ look }) {
    const [accounts, gates, limits, chain] = await look(async (sql) => {
      await sql`set local statement_timeout = '10min'`
      return [
        [...(await sql<{ user_id: string }[]>`select user_id from private.verify_accounts() limit 10`)],
        [...(await sql<{ user_id: string }[]>`select user_id from private.compare_account_gates() limit 10`)],
        [...(await sql<{ user_id: string | null }[]>`select user_id from private.compare_account_limits() limit 10`)],
        [
          ...(await sql<{ seq: string | null; problem: string }[]>`
          select seq::text, problem from private.verify_audit_chain(date_trunc('month', now() at time zone 'UTC')::date) limit 10`),
        ],
      ] as const
    })
    const evidence = byHand(
      'Stop writing to it, copy the month away, compare with the ends of chains that you keep elsewhere: docs/operations.md, "The audit log".',
    )
    return judge(
      [
        ...accounts.map(({ user_id }) => ({
          what: `the balance of ${user_id} is not the sum of its entries`,
          mend: byHand(
            `select * from private.verify_accounts() where user_id = '${user_id}'; says by how much. Correct it with grant_credits or claw_back_credits.`,
          ),
        })),
        ...gates.map(({ user_id }) => ({
          what: `what the account ${user_id} may do is not what its profile, its bans and its factors say`,
          mend: bySql(`select private.refresh_account_gates('${user_id}');`),
        })),
        ...limits.map(({ user_id }) => ({
          what: user_id
            ? `the limits that count for the account ${user_id} are not those of its plan, its own and what is paid for`
            : 'the limits of a plan are not what plan_limits says',
          mend: bySql(
            user_id
              ? `select private.refresh_account_limits('${user_id}');`
              : 'select private.refresh_limit_set(p.id) from public.plans p;',
          ),
        })),
        ...chain.map(({ seq, problem }) => ({
          what: `audit log, entry ${seq ?? 'unknown'} of this month: ${problem}`,
          mend: evidence,
        })),
      ],
      'balances, gates, limits and audit chain are whole',
    )
  },
}

export const ofJobs: Check[] = [scheduled, running, reaching, partitions, dead, ledgers]
