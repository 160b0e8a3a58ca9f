/** Most calls are admitted and settled in one statement for all callers; the others take a longer way. Both must come to the same. */
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { admit, baseModel, newModel, settle } from './ai-support.ts'
import { type Account, changeCredits, newAccount, rolledBack, type Tx } from './support.ts'

type Request = Record<string, unknown>
type Answer = {
  admitted: boolean
  call_id: string | null
  routes?: unknown
  credits_remaining?: number
  limits?: unknown
}

const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
beforeAll(() => console.info(`seed ${seed}: run again with SEED=${seed}`))

/** What a plan allows, what somebody has left, what an operator changed: each reason for which a call may not be plain. */
async function accounts(tx: Tx): Promise<Account[]> {
  const made: Account[] = []
  for (let i = 0; i < 6; i += 1) made.push(await newAccount(tx))
  const [usual, poor, slow, hasOverride, , isNew] = made as [Account, Account, Account, Account, Account, Account]
  await changeCredits(tx, 'deduct', poor.id, 97)
  await tx`insert into public.limit_overrides (user_id, meter, period, amount) values (${hasOverride.id}, 'ai_tokens', 'month', 900)`
  // A call each, so that their periods run; not of the last, whose periods the long way begins.
  for (const account of made) if (account !== isNew) await settle(tx, (await admit(tx, account)).call_id)
  await tx`
    update private.accounts set counts.used[1] = 58, counts.resets_at[1] = now() - interval '1 second' where user_id = ${usual.id}`
  await tx`update private.accounts set counts.used[1] = 58 where user_id = ${slow.id}`
  return made
}

const request = fc.record({
  user: fc.nat({ max: 5 }),
  model: fc.constantFrom('sql/model', 'sql/model', baseModel, 'no/model'),
  endpoint: fc.constantFrom('chat.completions', 'chat.completions', 'chat.completions', 'embeddings'),
  prompt_tokens_max: fc.nat({ max: 300 }),
  max_output_tokens: fc.constantFrom(null, 1, 50, 100_000),
  choices: fc.constantFrom(null, 1, 3),
  images: fc.constantFrom(null, 0),
  stream: fc.boolean(),
})

const tokens = fc.constantFrom(0, 1, 17, 900)
const usage = fc.record({
  prompt_tokens: tokens,
  completion_tokens: tokens,
  cached_tokens: fc.constantFrom(0, 5),
  reasoning_tokens: fc.constantFrom(0, 3),
  images: fc.constantFrom(0, 1),
  cost_usd: fc.constantFrom(null, 0, 0.0000012),
})
const outcome = fc.oneof(
  fc.record({ result: fc.constant('succeeded'), usage, usage_source: fc.constantFrom('provider', 'estimated') }),
  fc.record({ result: fc.constant('cancelled'), usage, usage_source: fc.constant('estimated') }),
  fc.record({ result: fc.constant('failed'), usage: fc.constant(null), usage_source: fc.constant('none') }),
)

/** Takes one batch from admission to settlement, and answers all that it left behind, without ids and moments. */
async function live(tx: Tx, requests: Request[], outcomes: Request[]) {
  const [row] = await tx`select private.admit_ai_calls(${tx.json(requests as never)}) as answers`
  const answers = row?.answers as Answer[]
  const admitted = answers.flatMap(({ admitted, call_id }) => (admitted && call_id ? [call_id] : []))
  const held = await tx`
    select to_jsonb(h) - '{call_id,created_at,expires_at}'::text[] || jsonb_build_object('lasts', h.expires_at - now()) as hold
    from private.ai_holds h where h.call_id = any (${admitted}) order by array_position(${admitted}::uuid[], h.call_id)`
  const accountsHeld = await tx`select to_jsonb(a) as account from private.accounts a where held > 0 order by user_id`
  const settlements = admitted.map((call_id, at) => ({
    call_id,
    outcome: {
      http_status: 200,
      error_code: null,
      response_bytes: 9,
      duration_ms: 8,
      first_token_ms: null,
      attempts: 1,
      ...outcomes[at % outcomes.length],
    },
  }))
  const [end] = await tx`select private.settle_ai_calls(${tx.json(settlements as never)}) as answers`
  const users = requests.map(({ user_id }) => user_id as string)
  const calls = await tx`
    select to_jsonb(c) - '{id,created_at}'::text[] as call from public.ai_calls c where c.id = any (${admitted}) order by array_position(${admitted}::uuid[], c.id)`
  const entries = await tx`
    select e.user_id, e.amount, e.kind, e.reason, e.balance_after from public.credit_entries e
    where e.idempotency_key = any (${admitted.map((id) => `ai_call:${id}`)}) order by array_position(${admitted}::text[], substr(e.idempotency_key, 9))`
  const after =
    await tx`select to_jsonb(a) as account from private.accounts a where user_id = any (${users}) order by user_id`
  const unbalanced = await tx`select * from private.verify_accounts() where user_id = any (${users})`
  const [spend] = await tx`select spent_and_held_micros::text as micros from private.project_spend()`
  // Of several calls of one user in a batch the plain way says what is left after all of them, the long way after each.
  const alone = ({ user_id }: Request) => users.filter((user) => user === user_id).length === 1
  return JSON.parse(
    JSON.stringify({
      answers: answers.map(({ call_id, limits, credits_remaining, ...answer }, at) =>
        requests[at] && alone(requests[at]) ? { ...answer, limits, credits_remaining } : answer,
      ),
      settled: ((end?.answers ?? []) as Answer[]).map(({ credits_remaining: _, ...answer }) => answer),
      ...{ held, accountsHeld, calls, entries, after, unbalanced, spend },
    }),
  )
}

const takesBack = Symbol('takes back')

/** Does something in a savepoint, takes it back, and keeps what it answered. */
async function tried<T>(tx: Tx, what: (tx: Tx) => Promise<T>): Promise<T> {
  let answer: T | undefined
  await tx
    .savepoint(async (inner) => {
      answer = await what(inner)
      throw takesBack
    })
    .catch((error: unknown) => {
      if (error !== takesBack) throw error
    })
  return answer as T
}

const withoutPlainWay = (tx: Tx) =>
  tx.unsafe(`
    create or replace function private.admit_plain_ai_calls(requests jsonb, out positions bigint[], out answers json[])
    language plpgsql as $$ begin end $$;
    create or replace function private.settle_plain_ai_calls(settlements jsonb)
    returns table (at_position integer, answer jsonb, month date, unspent_micros bigint) language plpgsql as $$ begin end $$`)

const plainCalls = async (tx: Tx, requests: Request[]) =>
  tried(tx, async (inner) => {
    const [row] = await inner`
      select cardinality((private.admit_plain_ai_calls(${inner.json(requests as never)})).positions) as count`
    return Number(row?.count ?? 0)
  })

test('the plain way and the long way leave the same behind, whatever the batch', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    const made = await accounts(tx)
    let plain = 0
    let long = 0
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 12 }),
        fc.array(outcome, { minLength: 1, maxLength: 5 }),
        async (wishes, outcomes) => {
          const requests = wishes.map(({ user, ...wish }, at) => ({
            ...{
              request_id: `req_${at}`,
              request_bytes: 321,
              user_id: made[user]?.id,
              session_id: made[user]?.sessionId,
            },
            ...wish,
          }))
          const ours = await plainCalls(tx, requests)
          plain += ours
          long += requests.length - ours
          const one = await tried(tx, (inner) => live(inner, requests, outcomes))
          const other = await tried(tx, async (inner) => {
            await withoutPlainWay(inner)
            return live(inner, requests, outcomes)
          })
          expect(one).toEqual(other)
          expect(one.unbalanced).toEqual([])
        },
      ),
      { numRuns: runs(60), seed },
    )
    // Else nothing would have been compared.
    expect(plain).toBeGreaterThan(20)
    expect(long).toBeGreaterThan(20)
  }))

test('a call that is like most takes the plain way, and one that is not does not', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    const account = await newAccount(tx)
    const usual = {
      ...{
        request_id: 'req_1',
        request_bytes: 1,
        user_id: account.id,
        session_id: account.sessionId,
        model: 'sql/model',
      },
      ...{
        endpoint: 'chat.completions',
        prompt_tokens_max: 1,
        max_output_tokens: 1,
        choices: 1,
        images: 0,
        stream: false,
      },
    }
    expect(await plainCalls(tx, [usual]), 'before its periods have begun').toBe(0)
    await settle(tx, (await admit(tx, account)).call_id)

    expect(await plainCalls(tx, [usual])).toBe(1)
    expect(await plainCalls(tx, [usual, usual, usual])).toBe(3)
    for (const change of [
      { session_id: crypto.randomUUID() },
      { model: 'no/model' },
      { endpoint: 'embeddings' },
      { idempotency_key: 'key', body_hash: 'a'.repeat(64) },
      { api_key_hash: 'ab' },
      { prompt_tokens_max: 2_000_000_000 },
      { request_id: '' },
    ])
      expect(await plainCalls(tx, [{ ...usual, ...change }]), JSON.stringify(change)).toBe(0)

    for (const change of [
      tx`update public.profiles set status = 'suspended' where id = ${account.id}`,
      tx`update auth.users set banned_until = now() + interval '1 day' where id = ${account.id}`,
      tx`update auth.users set is_anonymous = true where id = ${account.id}`,
      tx`delete from auth.sessions where user_id = ${account.id}`,
      tx`insert into auth.mfa_factors (id, user_id, factor_type, status, created_at, updated_at) values (${account.id}, ${account.id}, 'totp', 'verified', now(), now())`,
      tx`delete from public.plan_models where model_id = 'sql/model'`,
      tx`update public.models set enabled = false where id = 'sql/model'`,
      tx`update private.providers set enabled = false where id = 'sql-test'`,
      tx`update public.model_prices set valid_from = now() + interval '1 day' where model_id = 'sql/model'`,
      tx`insert into private.circuit_breakers (provider_id, model_id, failures) values ('sql-test', 'sql/model', 1)`,
      tx`insert into private.model_fallbacks (model_id, position, fallback_model_id) values ('sql/model', 1, ${baseModel})`,
      tx`insert into public.limit_overrides (user_id, meter, period, amount) values (${account.id}, 'ai_calls', 'day', 5)`,
      tx`update public.plan_limits set amount = 1 where plan_id = 'free' and meter = 'ai_calls'`,
      tx`delete from public.plan_limits where plan_id = 'free' and meter = 'ai_tokens'`,
      tx`update private.accounts set held = balance where user_id = ${account.id}`,
      tx`update private.accounts set next_expiry_at = now() where user_id = ${account.id}`,
      tx`update private.spend_shards set left_micros = 0 where shard < 128`,
    ]) {
      const found = await tried(tx, async (inner) => {
        // A query is sent when it is awaited, so it belongs to the savepoint.
        await change
        return plainCalls(inner, [usual])
      })
      expect(found).toBe(0)
    }
    expect(await plainCalls(tx, [usual]), 'and all of that was taken back').toBe(1)
  }))
