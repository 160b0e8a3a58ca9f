/** The main story: from nothing to a metered AI call, and what happens when it goes wrong. */
import OpenAI from 'openai'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { readConfig } from '../../stack/config.ts'
import { callsAtProvider, modelThat } from '../support/models.ts'
import { moveToNoon } from '../support/noon-zone.ts'
import {
  clientWith,
  newUser as newUserAnywhere,
  openaiFor,
  password,
  signUpData,
  type TestUser,
} from '../support/users.ts'
import { target } from '../target.ts'

const model = 'demo/echo'
const hello = [{ role: 'user' as const, content: 'Hello, Palisade!' }]
const errorBody = z.object({
  error: z.looseObject({ message: z.string(), code: z.string(), param: z.string().nullable() }),
})
let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 2, onnotice: () => {} })
})
afterAll(() => sql.end())

/** Their limits of a day are counted here. */
async function newUser(): Promise<TestUser> {
  const user = await newUserAnywhere()
  await moveToNoon(sql, user.id)
  return user
}

/** A settlement that takes its time goes on behind the answer: balances are awaited, never longer than this. */
const patience = { timeout: 20_000 }

/** Of the processes that answer now: the note in stack.json is up to a second older, and may name one that died. */
const functionsPids = () => {
  const config = readConfig({ ...process.env, PALISADE_PORT: String(target().own?.port) })
  return Promise.all(
    config.urls.functions.map(async (url) => {
      const health = await fetch(`${url}/_health`)
      return z.object({ pid: z.int() }).parse(await health.json()).pid
    }),
  )
}
const credits = async (user: TestUser) => (await user.client.rpc('get_my_credits')).data
const limit = async (user: TestUser, meter: string) =>
  (await user.client.rpc('get_my_limits')).data?.find((row) => row.meter === meter)
const calls = async (user: TestUser) =>
  (await user.client.from('ai_calls').select('*').order('created_at', { ascending: false })).data ?? []
const leaveCallsToday = (user: TestUser, left: number) => sql`
  insert into public.limit_overrides (user_id, meter, period, amount) values (${user.id}, 'ai_calls', 'day', ${left})`
const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => (error instanceof OpenAI.APIError ? error : Promise.reject(error)),
  )

async function streamed(user: TestUser, body: { model: string; user?: string }): Promise<string> {
  const stream = await user.openai.chat.completions.create({ ...body, messages: hello, stream: true })
  let text = ''
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
  return text
}

/** Ledger and balance agree for everybody, whatever happened before. */
const expectBalancedBooks = async () => expect(await sql`select * from private.verify_accounts()`).toEqual([])

describe('a new user', () => {
  test('starts with 100 credits and the limits of the free plan', async () => {
    const user = await newUser()

    await expect.poll(() => credits(user), patience).toEqual({ balance: 100, held: 0 })
    expect(await limit(user, 'ai_calls')).toMatchObject({ period: 'day', used: 0, held: 0, amount: 50, remaining: 50 })
    expect(await limit(user, 'ai_tokens')).toMatchObject({ period: 'month', amount: 100_000 })
  })

  test('cannot sign in before the mailed link is followed', async () => {
    const client = clientWith(target().publishableKey)
    const email = `early-${crypto.randomUUID()}@example.com`
    await client.auth.signUp({ email, password, options: { data: signUpData } })

    const { error } = await client.auth.signInWithPassword({ email, password })

    expect(error?.code).toBe('email_not_confirmed')
  })

  test('chats with streaming, and sees the call, its cost and the new balance', async () => {
    const user = await newUser()

    const text = await streamed(user, { model })

    expect(text).toContain('Hello, Palisade!')
    await expect.poll(() => credits(user), patience).toEqual({ balance: 99, held: 0 })
    const [call] = await calls(user)
    expect(call).toMatchObject({
      state: 'settled',
      http_status: 200,
      model_id: model,
      stream: true,
      usage_source: 'provider',
      credits_charged: 1,
      attempts: 1,
      error_code: null,
    })
    expect(call?.first_token_ms).toBeGreaterThanOrEqual(0)
    const { prompt_tokens, completion_tokens, cost_micros } = call ?? {}
    expect(cost_micros).toBe(Math.ceil(Number(prompt_tokens) * 0.15 + Number(completion_tokens) * 0.6))
    expect(await limit(user, 'ai_calls')).toMatchObject({ used: 1, held: 0, remaining: 49 })
    expect(await limit(user, 'ai_tokens')).toMatchObject({
      used: Number(prompt_tokens) + Number(completion_tokens),
      held: 0,
    })
  })

  test('gets the same answer as JSON, and every field of the call log', async () => {
    const user = await newUser()

    const answer = await user.openai.chat.completions.create({ model, messages: hello })

    expect(answer.choices[0]?.message.content).toContain('Hello, Palisade!')
    const [call] = await calls(user)
    expect(call).toMatchObject({
      provider_id: 'demo',
      endpoint: 'chat.completions',
      stream: false,
      prompt_tokens: answer.usage?.prompt_tokens,
      completion_tokens: answer.usage?.completion_tokens,
    })
    for (const field of ['request_bytes', 'response_bytes', 'duration_ms'] as const)
      expect(call?.[field], field).toBeGreaterThanOrEqual(0)
    expect(JSON.stringify(call)).not.toContain('Hello')
  })

  test('lists the models of the plan, and no others', async () => {
    const user = await newUser()

    const models = await user.openai.models.list()

    expect(models.data.map((entry) => entry.id)).toContain(model)
    expect(models.data.map((entry) => entry.id)).not.toContain('test/premium-only')
  })

  test('keeps a chat and its messages when it wants to', async () => {
    const user = await newUser()

    const chat = await user.client.from('chats').insert({ title: 'First' }).select().single()
    const saved = await user.client
      .from('messages')
      .insert({ chat_id: chat.data?.id ?? '', role: 'user', content: 'Hi' })
      .select()
      .single()

    expect(saved.data).toMatchObject({ chat_id: chat.data?.id, user_id: user.id, content: 'Hi' })
    expect(await limit(user, 'chat_sessions')).toMatchObject({ used: 1, remaining: 9 })
  })
})

describe('somebody else', () => {
  test('sees neither the call, nor the ledger, the chat, the profile', async () => {
    const [owner, other] = await Promise.all([newUser(), newUser()])
    await streamed(owner, { model })
    await owner.client.from('chats').insert({ title: 'Mine' })

    for (const table of ['ai_calls', 'chats'] as const) {
      const { data, error } = await other.client.from(table).select('*').eq('user_id', owner.id)
      expect([data, error], table).toEqual([[], null])
    }
    const entries = await other.client.from('credit_entries').select('*').eq('user_id', owner.id)
    expect([entries.data, entries.error]).toEqual([[], null])
    expect((await other.client.from('profiles').select('*').eq('id', owner.id)).data).toEqual([])
  })

  test('without a session gets nothing from any table', async () => {
    const anonymous = clientWith(target().publishableKey)

    for (const table of ['ai_calls', 'chats', 'messages', 'profiles', 'plans', 'models'] as const) {
      const { data, error } = await anonymous.from(table).select('*')
      expect([data, error?.code], table).toEqual([null, '42501'])
    }
    const entries = await anonymous.from('credit_entries').select('*')
    expect([entries.data, entries.error?.code]).toEqual([null, '42501'])
    expect((await anonymous.rpc('get_my_credits')).error?.code).toBe('42501')
  })

  test('cannot raise their own plan, role, status or credits', async () => {
    const user = await newUser()

    for (const change of [
      { plan_id: 'premium' },
      { role: 'admin' },
      { status: 'active' },
      { quota_time_zone: 'Asia/Tokyo' },
    ]) {
      expect((await user.client.from('profiles').update(change).eq('id', user.id)).error?.code).toBe('42501')
    }
    const grant = { user_id: user.id, amount: 5, reason: 'please', idempotency_key: 'k' }
    expect((await user.client.rpc('grant_credits', grant)).error?.code).toBe('42501')
  })
})

describe('nobody overspends', () => {
  test('60 parallel calls by a user with 10 calls left today: exactly 10 reach the provider', async () => {
    const user = await newUser()
    await leaveCallsToday(user, 10)

    const outcomes = await Promise.all(
      Array.from({ length: 60 }, () => refusal(streamed(user, { model, user: user.id }))),
    )

    expect(outcomes.filter((error) => error === undefined)).toHaveLength(10)
    expect(await callsAtProvider(user.id)).toHaveLength(10)
    expect(new Set(outcomes.flatMap((error) => error?.status ?? [])).isSubsetOf(new Set([429, 402]))).toBe(true)
    await expect.poll(() => credits(user), patience).toEqual({ balance: 90, held: 0 })
    expect(await limit(user, 'ai_calls')).toMatchObject({ used: 10, held: 0, remaining: 0 })
    await expectBalancedBooks()
  })

  test('60 parallel calls by a user with 10 credits left: exactly 10 reach the provider', async () => {
    const user = await newUser()
    await leaveCallsToday(user, 1_000)
    const service = clientWith(target().secretKey)
    const taken = await service.rpc('deduct_credits', {
      user_id: user.id,
      amount: 90,
      reason: 'test',
      idempotency_key: 'leave-ten',
    })
    expect(taken.error).toBeNull()

    const outcomes = await Promise.all(
      Array.from({ length: 60 }, () => refusal(streamed(user, { model, user: user.id }))),
    )

    expect(outcomes.filter((error) => error === undefined)).toHaveLength(10)
    expect(await callsAtProvider(user.id)).toHaveLength(10)
    await expect.poll(() => credits(user), patience).toEqual({ balance: 0, held: 0 })
    await expectBalancedBooks()
  })

  test('a refused call notes its reason and consumes nothing', async () => {
    const user = await newUser()
    await leaveCallsToday(user, 0)

    const error = await refusal(streamed(user, { model, user: user.id }))

    expect(error).toMatchObject({ status: 429, code: 'daily_quota_exceeded' })
    expect(error?.headers?.get('x-should-retry')).toBe('false')
    expect(Number(error?.headers?.get('retry-after'))).toBeGreaterThan(0)
    expect(await calls(user)).toMatchObject([
      { state: 'refused', error_code: 'daily_quota_exceeded', http_status: 429, credits_charged: 0 },
    ])
    expect(await callsAtProvider(user.id)).toHaveLength(0)
    await expect.poll(() => credits(user), patience).toEqual({ balance: 100, held: 0 })
    expect(await limit(user, 'ai_tokens')).toMatchObject({ used: 0, held: 0 })
  })
})

describe('when it goes wrong', () => {
  test.each([
    ['500', 502, true],
    ['error-first', 502, true],
    ['429', 429, true],
    ['garbage', 502, false],
  ])('a provider that answers %s costs nothing', async (behaviour, status, stream) => {
    const user = await newUser()
    const broken = await modelThat(behaviour)

    const error = await refusal(user.openai.chat.completions.create({ model: broken, messages: hello, stream }))

    expect(error?.status).toBe(status)
    await expect.poll(() => credits(user), patience).toEqual({ balance: 100, held: 0 })
    expect(await limit(user, 'ai_calls')).toMatchObject({ used: 0, held: 0 })
    expect(await calls(user)).toMatchObject([{ state: 'released', credits_charged: 0, cost_micros: 0 }])
  })

  test('a caller who hangs up in the middle is charged once, for what was delivered and the time it took', async () => {
    const user = await newUser()
    const slow = await modelThat('slower+long')
    const stream = await user.openai.chat.completions.create({
      model: slow,
      messages: hello,
      stream: true,
      user: user.id,
      max_tokens: 4_000,
    })

    let seen = 0
    for await (const _chunk of stream) if (++seen === 4) break

    await expect.poll(async () => (await calls(user))[0]?.state, patience).toBe('settled')
    const [call] = await calls(user)
    expect(call).toMatchObject({ http_status: 499, usage_source: 'estimated', credits_charged: 1 })
    expect(call?.completion_tokens).toBeGreaterThan(0)
    // Fifty tokens a second; it would have been 2,000.
    expect(call?.completion_tokens).toBeLessThan(1_500)
    expect(await callsAtProvider(user.id)).toMatchObject([{ aborted: true }])
    const entries = await user.client.from('credit_entries').select('amount').eq('kind', 'ai_call')
    expect(entries.data).toEqual([{ amount: -1 }])
    await expect.poll(() => credits(user), patience).toEqual({ balance: 99, held: 0 })
    await expectBalancedBooks()
  })

  // Only a stack that the tests started themselves may be killed.
  test.runIf(target().own).each([
    ['before the first byte', 'hang', 0],
    ['in the middle of the answer', 'slower+long', 1],
  ])(
    'the function process dies %s: the sweeper settles, and the books balance',
    async (_when, behaviour, charged) => {
      const user = await newUser()
      const model = await modelThat(behaviour)
      const request = user.openai.chat.completions.create({ model, messages: hello, stream: true })
      const ended = request
        .then(async (stream) => {
          for await (const _ of stream);
        })
        .catch(() => 'torn')
      const started = charged === 1
      await expect
        .poll(async () => {
          const [hold] = await sql`select started_at from private.ai_holds where user_id = ${user.id}`
          return hold !== undefined && (hold.started_at !== null) === started
        }, patience)
        .toBe(true)

      for (const pid of await functionsPids()) process.kill(pid, 'SIGKILL')
      await ended
      await sql`update private.ai_holds set expires_at = now() - interval '1 second' where user_id = ${user.id}`
      await sql`select private.settle_abandoned_ai_calls()`

      expect(await calls(user)).toMatchObject([{ state: 'expired', credits_charged: charged }])
      await expect.poll(() => credits(user), patience).toEqual({ balance: 100 - charged, held: 0 })
      await expectBalancedBooks()
      await expect.poll(() => streamed(user, { model: 'demo/echo' }).catch(() => ''), patience).toContain('Hello')
    },
    90_000,
  )
})

describe('bad input', () => {
  const post = (body: string, authorization?: string) =>
    fetch(`${target().functionsUrl}/ai/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(authorization ? { authorization } : {}) },
      body,
    })
  const good = JSON.stringify({ model, messages: hello })

  test.each([
    [
      'a body over 1 MB',
      () => JSON.stringify({ model, messages: [{ role: 'user', content: 'x'.repeat(1_100_000) }] }),
      413,
      'request_too_large',
      null,
    ],
    ['invalid JSON', () => '{"model":', 400, 'invalid_request_error', null],
    ['a missing model', () => JSON.stringify({ messages: hello }), 400, 'invalid_request_error', 'model'],
    ['an unknown model', () => JSON.stringify({ model: 'no/such', messages: hello }), 404, 'model_not_found', 'model'],
    [
      'a negative max_tokens',
      () => JSON.stringify({ model, messages: hello, max_tokens: -1 }),
      400,
      'invalid_request_error',
      'max_tokens',
    ],
    ['no messages', () => JSON.stringify({ model, messages: [] }), 400, 'invalid_request_error', 'messages'],
  ])('%s gets its own clear error, and nothing is charged', async (_what, body, status, code, param) => {
    const user = await newUser()

    const response = await post(body(), `Bearer ${user.accessToken}`)

    expect(response.status).toBe(status)
    const { error } = errorBody.parse(await response.json())
    expect(error).toMatchObject({ code, param })
    expect(error.message.length).toBeGreaterThan(10)
    expect(response.headers.get('x-request-id')).toBeTruthy()
    await expect.poll(() => credits(user), patience).toEqual({ balance: 100, held: 0 })
  })

  test('no token, a key that is none, and a token of another project are refused with 401', async () => {
    const foreign = 'eyJhbGciOiJFUzI1NiIsImtpZCI6Im90aGVyIn0.eyJzdWIiOiJ4In0.AAAA'

    for (const authorization of [
      undefined,
      'Bearer nonsense',
      `Bearer ${foreign}`,
      `Bearer ${target().publishableKey}`,
    ]) {
      const response = await post(good, authorization)
      expect([response.status, errorBody.parse(await response.json()).error.code]).toEqual([401, 'invalid_api_key'])
    }
  })

  test('a session that has ended is refused although its token has not expired', async () => {
    const user = await newUser()
    await user.client.auth.signOut({ scope: 'local' })

    const error = await refusal(openaiFor(user.accessToken).chat.completions.create({ model, messages: hello }))

    expect(error).toMatchObject({ status: 401, code: 'invalid_api_key' })
  })

  test('a suspended account is refused at once', async () => {
    const user = await newUser()
    await sql`update public.profiles set status = 'suspended' where id = ${user.id}`

    const error = await refusal(streamed(user, { model }))

    expect(error).toMatchObject({ status: 403, code: 'account_suspended' })
    expect(await sql`select state, error_code from public.ai_calls where user_id = ${user.id}`).toEqual([
      { state: 'refused', error_code: 'account_suspended' },
    ])
  })
})
