/** A run of chaos: callers and accidents at the same time, for so many seconds; then everything is counted. */
import { setTimeout as sleep } from 'node:timers/promises'
import { isLostWrite } from '../../stack/platform/pool.ts'
import { countEverything, type Finding } from './count.ts'
import { type Accident, type Step, scenario } from './scenario.ts'
import { type Account, type ChaosWorld, type Detour, modelFor, startWorld } from './world.ts'

export type ChaosOptions = {
  seed: number
  seconds: number
  callers: number
  crashes: number
  /** A run that has not seen all it is for goes on, up to four times as long: how much happens in a second is the machine's affair. */
  hasSeenEnough?(answers: Record<string, number>): boolean
  detour?: Detour
  progress(line: string): void
}
export type ChaosReport = { findings: Finding[]; answers: Record<string, number>; accidents: Record<string, number> }

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const { seed, seconds, callers, crashes, progress, hasSeenEnough = () => true } = options
  progress('starting a database, two gateways and a provider')
  const world = await startWorld(() => {}, options.detour)
  const until = Date.now() + seconds * 1_000
  const { steps, accidents } = scenario(seed, seconds * 200)
  const answers: Record<string, number> = {}
  const happened: Record<string, number> = {}
  const findings: Finding[] = []
  const latest = until + 3_000 * seconds
  const goesOn = () => Date.now() < until || (Date.now() < latest && !hasSeenEnough(answers))
  const note = (counts: Record<string, number>, name: string) => {
    counts[name] = (counts[name] ?? 0) + 1
  }
  process.on('uncaughtException', unlessLostWrite)
  try {
    const call = async () => {
      for (let step = steps.pop(); step && goesOn(); step = steps.pop()) note(answers, await take(step, world))
    }
    const misfortune = async () => {
      for (let next = accidents.pop(); next && goesOn(); next = accidents.pop()) {
        await sleep(next.pauseMs)
        await befall(next, world).then(
          () => note(happened, next.what),
          () => note(happened, `${next.what}, in vain`),
        )
      }
    }
    const crash = async () => {
      for (let done = 0; done < crashes; done += 1) {
        await sleep((seconds * 1_000) / (crashes + 1))
        await world.crashDatabase()
        note(happened, 'kill -9 of PostgreSQL')
      }
    }
    const sweep = async () => {
      for (; goesOn(); await sleep(1_000)) await world.sql`select private.settle_abandoned_ai_calls()`.catch(() => {})
    }
    const watch = async () => {
      for (; goesOn(); await sleep(50)) findings.push(...(await tooManyAtOnce(world).catch(() => [])))
    }
    const tell = async () => {
      for (; goesOn(); await sleep(5_000)) {
        const total = Object.values(answers).reduce((sum, count) => sum + count, 0)
        progress(`${total} calls, ${Math.max(0, Math.round((until - Date.now()) / 1_000))} s left`)
      }
    }
    await Promise.all([...Array.from({ length: callers }, call), misfortune(), crash(), sweep(), watch(), tell()])
    progress('letting everything come to rest, and counting')
    findings.push(...(await countEverything(world)))
    return { findings, answers, accidents: happened }
  } finally {
    await world.stop()
    process.off('uncaughtException', unlessLostWrite)
  }
}

/** When PostgreSQL is killed inside a transaction of ours, the driver writes to its connection once more. */
function unlessLostWrite(error: Error): void {
  if (!isLostWrite(error)) throw error
}

/** One call as a client makes it; answers what it came to, as a word. */
async function take(step: Step, world: ChaosWorld): Promise<string> {
  const account = world.accounts[step.account] as Account
  const gateway = world.gateways[step.process]?.url ?? ''
  const kind = step.endpoint === 'embeddings' ? 'embedding' : step.endpoint === 'images' ? 'image' : 'chat'
  const text = 'word '.repeat(step.words)
  const hangUp = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined
  try {
    const model = step.endpoint === 'unknown model' ? 'chaos/none' : await modelFor(world.sql, kind, step.behaviour)
    const { path, body } = {
      chat: {
        path: '/chat/completions',
        body: {
          model,
          messages: [{ role: 'user', content: text }],
          stream: step.stream,
          max_tokens: step.maxTokens,
          n: step.choices,
        },
      },
      embedding: { path: '/embeddings', body: { model, input: text } },
      image: { path: '/images/generations', body: { model, prompt: text, n: step.choices } },
    }[kind]
    const headers: Record<string, string> = {
      authorization: `Bearer ${account.bearer}`,
      'content-type': 'application/json',
      'x-request-id': crypto.randomUUID(),
      'x-forwarded-for': '203.0.113.7',
    }
    if (step.key !== null) headers['idempotency-key'] = `key-${step.key}`
    timer = setTimeout(() => hangUp.abort(), step.hangUpMs ?? 20_000)
    const answer = await fetch(`${gateway}${path}`, {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
      signal: hangUp.signal,
    })
    const said = await answer.text()
    if (answer.ok) return answer.headers.get('idempotency-replayed') ? 'replayed' : 'ok'
    return /"code":"(\w+)"/.exec(said)?.[1] ?? String(answer.status)
  } catch {
    return hangUp.signal.aborted ? 'hung up' : 'torn'
  } finally {
    clearTimeout(timer)
  }
}

async function befall(accident: Accident, { sql, gateways, accounts }: ChaosWorld): Promise<void> {
  if (accident.what === 'kill a function') {
    const pid = gateways[accident.process]?.functions.pid()
    if (pid !== undefined) process.kill(pid, 'SIGKILL')
  } else if (accident.what === 'settle again') {
    // What a gateway sends twice, or too late: for calls that have ended it must change nothing.
    await sql`
      select private.ai_step(array(
        select jsonb_populate_record(null::private.ai_outcome, jsonb_build_object(
          'call_id', c.id, 'user_id', c.user_id, 'result', 'succeeded', 'prompt_tokens', 99, 'completion_tokens', 99, 'usage_source', 'provider'))
        from (select id, user_id from public.ai_calls order by random() limit 5) c), '{}', 0)`
  } else if (accident.what === 'start again') {
    await sql`select private.start_ai_calls(array(select id from public.ai_calls order by random() limit 5))`
  } else if (accident.what === 'abandon') {
    // The sweeper comes while the gateway still runs: whoever settles first, it is once.
    await sql`update private.ai_holds set expires_at = now() where call_id in (select call_id from private.ai_holds order by random() limit 1)`
  } else {
    // The clock jumps to the next day and month, for those whose limits do not count calls of this period: what is open belongs
    // to the periods before.
    const free = accounts.filter(({ limit }) => ['concurrency', 'none'].includes(limit)).map(({ id }) => id)
    await sql.begin(async (tx) => {
      // As everybody who changes an account does, so that nobody opens a call in between.
      await tx`select from private.accounts where user_id = any(${free}) order by user_id for update`
      // Only what belongs to the period that ends here: a call that was open at an earlier jump has lost its period already, and
      // would give back to this one what it never took from it.
      await tx`
        update private.ai_holds h set
          day_resets_at = case when h.day_resets_at = a.day_resets_at then now() else h.day_resets_at end,
          month_resets_at = case when h.month_resets_at = a.month_resets_at then now() else h.month_resets_at end
        from private.accounts a
        where a.user_id = h.user_id and h.user_id = any(${free})`
      await tx`
        update private.accounts a set day_resets_at = now(), month_resets_at = now()
        where a.user_id = any(${free}) and a.month_resets_at > '-infinity'`
    })
  }
}

/** Concurrency is true at every moment, or it is not true. */
async function tooManyAtOnce({ sql, accounts }: ChaosWorld): Promise<Finding[]> {
  const account = accounts.find(({ limit }) => limit === 'concurrency')
  const [row] = await sql`select count(*)::int as open from private.ai_holds where user_id = ${account?.id ?? null}`
  return row?.open > 2 ? [{ what: 'more than two calls at once', details: row }] : []
}
