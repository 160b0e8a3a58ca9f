/**
 * Many calls are decided and settled in one statement. What that leaves behind must be what the same calls leave that come one after
 * the other, whatever is in the batch and in whatever state the accounts are.
 */
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { type Admission, createLedger, type Ledger } from '../../functions/_shared/ai/ledger.ts'
import { runs } from '../support/runs.ts'
import { baseModel, type Ending, newModel, type openCall, outcomeOf, requestOf, type Wish } from './ai-support.ts'
import {
  type Account,
  changeCredits,
  newAccount,
  rolledBack,
  type Sql,
  setCounter,
  setLimit,
  type Tx,
} from './support.ts'

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
beforeAll(() => console.info(`seed ${seed}: run again with SEED=${seed}`))

type Caller = Account & { key?: { id: string; hash: string } }
type Asked = Wish & { caller: number }
/** One after another, or in one statement: `last` is an ended call of nobody's, whose second settlement does nothing. */
type Way = (ledger: Ledger, last: Open) => <T>(acts: (() => Promise<T>)[]) => Promise<T[]>
type Open = Awaited<ReturnType<typeof openCall>>

const premium = (tx: Tx, { id }: Account) => tx`update public.profiles set plan_id = 'premium' where id = ${id}`

async function addKey(tx: Tx, { id }: Account): Promise<{ id: string; hash: string }> {
  const [key] = await tx`
    insert into public.api_keys (user_id, name, prefix, scopes) values (${id}, 'batch', 'pal_batch', '{chat.completions}') returning id`
  await tx`insert into public.api_key_limits (api_key_id, meter, period, amount)
    values (${key?.id}, 'ai_calls', 'day', 3), (${key?.id}, 'ai_tokens', 'month', 2000)`
  const [secret] = await tx`
    select encode(sha256(convert_to(private.add_api_key_secret(${key?.id}), 'UTF8')), 'hex') as hash`
  return { id: key?.id, hash: secret?.hash }
}

const minute = (tx: Tx, { id }: Account, used: number, resetsIn: string) =>
  setCounter(tx, id, 'ai_requests', 'minute', { used, resetsIn })

/** What each account has of its own: every limit, every gate and everything that time makes due. */
const states: Record<string, (tx: Tx, account: Account) => Promise<unknown>> = {
  usual: async () => {},
  'minute that ended': (tx, account) => minute(tx, account, 60, '-1 second'),
  'minute nearly full': (tx, account) => minute(tx, account, 58, '30 seconds'),
  'few credits': (tx, { id }) => changeCredits(tx, 'deduct', id, 97),
  'few tokens': (tx, { id }) => setLimit(tx, id, 'ai_tokens', 'month', 900),
  'little money': (tx, { id }) => setLimit(tx, id, 'ai_spend_micros', 'month', 400),
  'few at once': (tx, { id }) => setLimit(tx, id, 'ai_concurrency', 'total', 2),
  'no limit': (tx, { id }) => setLimit(tx, id, 'ai_calls', 'day', null),
  'day nearly used': (tx, { id }) => setCounter(tx, id, 'ai_calls', 'day', { used: 48 }),
  'day that ended': (tx, { id }) => setCounter(tx, id, 'ai_calls', 'day', { used: 50, held: 0, resetsIn: '-1 hour' }),
  paid: premium,
  'credits that expired': async (tx, { id }) => {
    await changeCredits(tx, 'deduct', id, 100)
    await tx`select private.add_credit_entry(${id}, 5, 'grant', 'old', 'old', 'promotional', now() + interval '1 day')`
    await tx`select private.add_credit_entry(${id}, 2, 'grant', 'new', 'new')`
    await tx`update private.credit_lots set expires_at = now() - interval '1 second' where user_id = ${id} and expires_at < 'infinity'`
    await tx`update private.accounts set next_expiry_at = now() - interval '1 second' where user_id = ${id}`
  },
  suspended: (tx, { id }) => tx`update public.profiles set status = 'suspended' where id = ${id}`,
  'no session': (tx, { id }) => tx`delete from auth.sessions where user_id = ${id}`,
  // Nobody has called for it yet.
  'periods not begun': async () => {},
}

async function makeCallers(tx: Tx): Promise<Caller[]> {
  const callers: Caller[] = []
  for (const [name, make] of Object.entries(states)) {
    const account = await newAccount(tx)
    if (name !== 'periods not begun') await tx`select private.renew_account(${account.id})`
    await make(tx, account)
    callers.push(account)
  }
  for (let i = 0; i < 2; i += 1) {
    const account = await newAccount(tx)
    if (i === 1) await premium(tx, account)
    callers.push({ ...account, key: await addKey(tx, account) })
  }
  return callers
}

/** One model is in both plans and falls back to one of the better plan's only, and to one that everybody has. */
async function makeModels(tx: Tx): Promise<void> {
  await newModel(tx)
  await tx`
    insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens, credits_per_call)
    values ('sql/dear', 'sql-test', 'upstream/dear', 8000, 700, 3)`
  await tx`
    insert into public.model_prices (model_id, valid_from, above_prompt_tokens, input_usd_per_mtok, output_usd_per_mtok, reasoning_usd_per_mtok,
      cache_write_usd_per_mtok, audio_input_usd_per_mtok, search_usd)
    values ('sql/dear', '2026-01-01T00:00:00Z', 0, 0.333333333, 7.1, 9, 0.4, null, null),
      ('sql/dear', '2026-01-01T00:00:00Z', 200, 0.7, 8, null, 0.9, 5, 0.00001)`
  await tx`insert into public.plan_models (plan_id, model_id) values ('premium', 'sql/model'), ('premium', 'sql/dear')`
  await tx`
    insert into private.model_fallbacks (model_id, position, fallback_model_id)
    values ('sql/model', 1, 'sql/dear'), ('sql/model', 2, ${baseModel})`
}

const callerCount = Object.keys(states).length + 2
const asked = fc.record({
  // Some twice as often: what a batch does differently it does to calls of one account.
  caller: fc.oneof(fc.nat({ max: callerCount - 1 }), fc.constantFrom(0, 1, 2, 3, callerCount - 1)),
  model: fc.constantFrom('sql/model', 'sql/model', baseModel, baseModel, 'sql/dear', 'no/model'),
  endpoint: fc.constantFrom(
    'chat.completions',
    'chat.completions',
    'chat.completions',
    'chat.completions',
    'embeddings',
  ),
  prompt_tokens_max: fc.nat({ max: 300 }),
  max_output_tokens: fc.constantFrom(null, 1, 50, 50, 100_000),
  choices: fc.constantFrom(1, 1, 3),
  stream: fc.boolean(),
  key: fc.constantFrom(null, null, null, null, null, 'one', 'two'),
  body: fc.constantFrom('a', 'a', 'b'),
})

const tokens = fc.constantFrom(0, 1, 17, 900)
const usage = fc.record({
  prompt_tokens: tokens,
  completion_tokens: tokens,
  cached_tokens: fc.constantFrom(0, 5),
  reasoning_tokens: fc.constantFrom(0, 3),
  cache_write_tokens: fc.constantFrom(0, 0, 4),
  cache_write_1h_tokens: fc.constantFrom(0, 0, 2),
  audio_input_tokens: fc.constantFrom(0, 0, 900),
  audio_output_tokens: fc.constantFrom(0, 0, 6),
  images: fc.constantFrom(0, 1),
  searches: fc.constantFrom(0, 0, 2),
  cost_usd: fc.constantFrom(null, 0, 0.0000012),
})
const ending: fc.Arbitrary<Ending> = fc.oneof(
  fc.record({
    result: fc.constant('succeeded'),
    model: fc.constantFrom(null, 'sql/dear', baseModel, 'no/model'),
    usage,
    usage_source: fc.constantFrom('provider', 'estimated'),
    late: fc.constantFrom(null, null, null, { prompt_tokens: 4, completion_tokens: 9 }),
  }),
  fc.record({ result: fc.constant('cancelled'), usage, usage_source: fc.constant('estimated') }),
  fc.record({
    result: fc.constant('failed'),
    usage: fc.constant(null),
    usage_source: fc.constant('none'),
    late: fc.constantFrom(null, null, { prompt_tokens: 4, completion_tokens: 9 }),
  }),
)

const withoutUsage = (one: Ending): Ending => ({
  ...one,
  usage: one.usage ? { prompt_tokens: 0, completion_tokens: 0 } : null,
})

const oneByOne: Way = () => async (acts) => {
  const answers = []
  for (const act of acts) answers.push(await act())
  return answers
}
/** Two batches may be on their way at a time: while two of the same are, all that comes gathers. */
const together: Way = (ledger, last) => async (acts) => {
  const outcome = outcomeOf({})
  const busy = [ledger.settle(last, outcome), ledger.settle(last, outcome)]
  const answers = await Promise.all(acts.map((act) => act()))
  await Promise.all(busy)
  return answers
}

function requestsOf(callers: Caller[], wishes: (Asked & { key: string | null; body: string })[], round: string) {
  return wishes.map(({ caller, key, body, ...wish }, at) => {
    const account = callers[caller] as Caller
    return requestOf(account, {
      ...wish,
      ...(account.key ? { api_key_hash: account.key.hash } : {}),
      ...(key ? { idempotency_key: key, body_hash: body.repeat(64) } : {}),
      ...{ request_id: `${round}_${String(at).padStart(2, '0')}` },
    })
  })
}

/** Takes a first round of calls to its end while a second one begins, and that one to its end; answers what both left behind. */
async function live(tx: Tx, ledger: Ledger, last: Open, way: Way, { callers, rounds, endings }: Scene) {
  const inOrder = way(ledger, last)
  const [first, second] = rounds.map((wishes, at) => requestsOf(callers, wishes, `round${at}`)) as [
    Request[],
    Request[],
  ]
  const begun = await inOrder(first.map((request) => () => ledger.admit(request)))
  const held = await leftBehind(tx, callers)
  const endOf = (admissions: Admission[]) =>
    admissions.flatMap((admission, at) => {
      if (!admission.admitted) return []
      const outcome = outcomeOf({ ...(endings[at % endings.length] as Ending) })
      return [() => ledger.settle(admission, outcome)]
    })
  const ends = endOf(begun)
  const both = await inOrder<unknown>([...ends, ...second.map((request) => () => ledger.admit(request))])
  const settled = both.slice(0, ends.length)
  const begunLater = both.slice(ends.length) as Admission[]
  const between = await leftBehind(tx, callers)
  const settledLater = await inOrder<unknown>(endOf(begunLater))
  const answers = [told(first, begun), told(second, begunLater)]
  const charged = [...settled, ...settledLater].map((one) => ({ ...(one as object), credits_remaining: null }))
  const admissions = [...begun, ...begunLater]
  return {
    count: admissions.filter(({ admitted }) => admitted).length,
    left: JSON.parse(JSON.stringify({ answers, charged, held, between, after: await leftBehind(tx, callers) })),
  }
}
type Request = ReturnType<typeof requestOf>
type Scene = {
  callers: Caller[]
  rounds: (Asked & { key: string | null; body: string })[][]
  endings: Ending[]
}

const whose = (request: Request) => ('user_id' in request ? request.user_id : request.api_key_hash)

/** Answers without ids. Of several calls of one account in a batch each hears what is left after all of them. */
const told = (requests: Request[], answers: Admission[]) =>
  answers.map(({ call_id, ...answer }, at) => {
    const alone = requests.filter((request) => whose(request) === whose(requests[at] as Request)).length === 1
    return answer.admitted && !alone
      ? { ...answer, hasCall: Boolean(call_id), limits: null, credits_remaining: null }
      : { ...answer, hasCall: Boolean(call_id) }
  })

/** Everything that AI calls write, without ids and moments that a clock gave. */
async function leftBehind(tx: Tx, callers: Caller[]) {
  const users = callers.map(({ id }) => id)
  const [row] = await tx`
    select
      (select jsonb_agg(to_jsonb(h) - '{call_id,created_at}'::text[] order by h.request_id)
        from private.ai_holds h where h.user_id = any (${users})) as holds,
      (select jsonb_agg(to_jsonb(a) order by a.user_id) from private.accounts a where a.user_id = any (${users})) as accounts,
      (select jsonb_agg(to_jsonb(c) - '{id,created_at,settled_at}'::text[] order by c.request_id)
        from public.ai_calls c where c.user_id = any (${users})) as calls,
      (select jsonb_agg(jsonb_build_array(e.user_id, e.amount, e.kind, e.reason, e.balance_after) order by e.user_id, e.created_at, e.amount desc)
        from public.credit_entries e where e.user_id = any (${users})) as entries,
      (select jsonb_agg(to_jsonb(u) order by u.api_key_id) from private.api_key_usage u) as keys,
      (select jsonb_agg(to_jsonb(i) - 'call_id' order by i.user_id, i.endpoint, i.key)
        from private.ai_idempotency_keys i where i.user_id = any (${users})) as idempotency,
      (select spent_and_held_micros::text from private.project_spend()) as spend,
      (select jsonb_agg(to_jsonb(s) - '{call_id,settled_at}'::text[] order by s.model_id, s.hold_micros, s.cost_micros, s.used_tokens)
        from private.ai_surprises s) as surprises,
      (select jsonb_agg(v.micros) from private.verify_ai_costs() v) as miscounted,
      (select jsonb_agg(v) from private.verify_accounts() v where v.user_id = any (${users})) as unbalanced`
  expect([row?.unbalanced, row?.miscounted]).toEqual([null, null])
  return row
}

const takesBack = Symbol('takes back')

/** Does something in a savepoint, takes it back, and keeps what it answered. */
async function tried<T>(tx: Tx, what: (tx: Tx) => Promise<T>): Promise<T> {
  const answer: { is?: T } = {}
  await tx
    .savepoint(async (inner) => {
      answer.is = await what(inner)
      throw takesBack
    })
    .catch((error: unknown) => {
      if (error !== takesBack) throw error
    })
  return answer.is as T
}

/** Counts the calls that are decided alone, of which each is looked at for its sense. A sequence, because it is not rolled back. */
async function countingAlone(tx: Tx): Promise<() => Promise<number>> {
  await tx.unsafe(`
    create sequence private.calls_alone;
    alter function private.require_sound(private.ai_request) rename to require_sound_call;
    create function private.require_sound(request private.ai_request) returns void language plpgsql as $$
    begin
      perform nextval('private.calls_alone');
      perform private.require_sound_call(request);
    end $$`)
  return async () => Number((await tx`select nextval('private.calls_alone') - 1 as so_far`)[0]?.so_far)
}

/** A call that has ended, by a ledger that knows the plan of everyone: else a call would be asked twice, and come later than others. */
async function warmUp(tx: Tx, ledger: Ledger, callers: Caller[]): Promise<Open> {
  const nobody = await newAccount(tx)
  const admitted = await ledger.admit(requestOf(nobody, { model: baseModel }))
  if (!admitted.admitted) throw new Error('not admitted')
  await ledger.settle(admitted, outcomeOf({}))
  await tried(tx, async () => {
    for (const caller of callers)
      await ledger.admit(requestOf(caller, caller.key ? { api_key_hash: caller.key.hash } : {}))
  })
  return { ...admitted, routes: [] }
}

test('calls together leave the same behind as the same calls one after the other', () =>
  rolledBack(async (tx) => {
    await makeModels(tx)
    const callers = await makeCallers(tx)
    const ledger = createLedger(tx as unknown as Sql)
    const last = await warmUp(tx, ledger, callers)
    const soFar = await countingAlone(tx)
    const round = fc.array(asked, { minLength: 1, maxLength: 12 })
    const seen = { inCommon: 0, alone: 0, refused: 0 }
    await fc.assert(
      fc.asyncProperty(
        fc.tuple(round, round),
        fc.array(ending, { minLength: 1, maxLength: 5 }),
        fc.constantFrom('1000', '0.0008'),
        async (rounds, endings, cap) => {
          // Who uses more than was held overdraws the cap, and a shard that has money left learns of that when it is empty.
          const scene = { callers, rounds, endings: cap === '1000' ? endings : endings.map(withoutUsage) }
          const within = async (inner: Tx, way: Way) => {
            await inner`update private.settings set value = ${cap}::text::jsonb where key = 'ai.project_usd_per_month'`
            return live(inner, ledger, last, way, scene)
          }
          const before = await soFar()
          const batch = await tried(tx, (inner) => within(inner, together))
          const alone = (await soFar()) - before - 1
          const asked = rounds.flat().length
          seen.alone += alone
          seen.inCommon += asked - alone
          seen.refused += asked - batch.count
          const single = await tried(tx, (inner) => within(inner, oneByOne))
          expect(batch.left).toEqual(single.left)
        },
      ),
      { numRuns: runs(60), seed },
    )
    // Else nothing would have been compared.
    for (const [what, count] of Object.entries(seen)) expect(count, what).toBeGreaterThan(20)
  }))
