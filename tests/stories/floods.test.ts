/** What one account, or somebody who knows its address, can make grow: rows, bytes, files, mails. Each flood meets an end, and says so. */
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fetchFrom } from '../support/from-address.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 2, onnotice: () => {} })
})
afterAll(() => sql.end())

const allow = ({ id }: TestUser, meter: string, period: string, amount: number) => sql`
  insert into public.limit_overrides (user_id, meter, period, amount) values (${id}, ${meter}, ${period}, ${amount})`

/** Does something so often, ten at a time. */
async function flood<T>(times: number, act: (index: number) => PromiseLike<T>): Promise<T[]> {
  const answers: T[] = []
  for (let from = 0; from < times; from += 10)
    answers.push(...(await Promise.all(Array.from({ length: Math.min(10, times - from) }, (_, n) => act(from + n)))))
  return answers
}

/** How often each outcome came: the status and, when it is ours, the code of the refusal. */
function tally(answers: { status: number; error: { code: string } | null }[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { status, error } of answers) {
    const outcome = error ? `${status} ${error.code}` : 'done'
    counts[outcome] = (counts[outcome] ?? 0) + 1
  }
  return counts
}

const mailsTo = async ({ id }: TestUser) =>
  (await sql`select count(*)::int as mails from private.mails where user_id = ${id}`)[0]?.mails

describe('one account', () => {
  test('writes documents until its bytes are used, and keeps what it wrote', async () => {
    const user = await newUser()
    await allow(user, 'documents_bytes', 'total', 200_000)
    const write = () => user.client.from('documents').insert({ content: 'x'.repeat(48_000) })

    const outcomes = tally(await flood(30, write))

    expect(outcomes).toEqual({ done: 4, '402 insufficient_quota': 26 })
    expect((await user.client.from('documents').select('id')).data).toHaveLength(4)
  })

  test('writes messages only so fast', async () => {
    const user = await newUser()
    await allow(user, 'messages', 'minute', 4)
    const chat = (await user.client.from('chats').insert({ title: 'x' }).select('id').single()).data?.id ?? ''
    const write = () => user.client.from('messages').insert({ chat_id: chat, role: 'user', content: 'x' })

    expect(tally(await flood(10, write))).toEqual({ done: 4, '429 rate_limit_exceeded': 6 })
    const headers = { apikey: target().publishableKey, authorization: `Bearer ${user.accessToken}` }
    const body = new URLSearchParams({ chat_id: chat, role: 'user', content: 'x' })
    const answer = await fetch(`${target().restUrl}/messages`, { method: 'POST', headers, body })
    expect([answer.status, Number(answer.headers.get('retry-after')) > 0]).toEqual([429, true])
  })

  test('changes its mind about selling only so often, and ends at forbidding it when it wants', async () => {
    const user = await newUser()
    await allow(user, 'consents', 'total', 3)
    const say = (value: boolean) => user.client.rpc('set_do_not_sell', { value })
    const outcomes: Awaited<ReturnType<typeof say>>[] = []
    for (let index = 0; index < 10; index += 1) outcomes.push(await say(index % 2 === 0))

    expect(tally(outcomes)).toEqual({ done: 8, '402 insufficient_quota': 2 })
    expect((await say(true)).error).toBeNull()
  })

  test('makes only so many API keys, although it revokes each', async () => {
    const user = await newUser()
    await allow(user, 'api_keys', 'total', 3)
    const make = async () => {
      const answer = await user.client.rpc('create_api_key', { name: 'x', scopes: ['models'] })
      if (answer.data?.[0]) await user.client.rpc('revoke_api_key', { id: answer.data[0].id })
      return answer
    }

    expect(tally(await flood(8, make))).toEqual({ done: 3, '402 insufficient_quota': 5 })
  })

  test('uploads files only so fast and so many, and Storage tells why', async () => {
    const user = await newUser()
    await allow(user, 'uploads', 'minute', 5)
    await allow(user, 'storage_files', 'total', 3)
    const file = new Blob(['x'], { type: 'image/png' })
    const put = (name: string) =>
      user.client.storage.from('images').upload(`${user.id}/${name}.png`, file, { upsert: true })

    const many = [await put('1'), await put('2'), await put('3'), await put('4')]
    const again = [await put('1'), await put('1'), await put('1')]

    expect(many.map(({ error }) => error?.message)).toEqual([
      undefined,
      undefined,
      undefined,
      'The limit of 3 files is reached.',
    ])
    expect(again.map(({ error }) => error?.message)).toEqual([
      undefined,
      undefined,
      'The limit of 5 uploads per minute is reached.',
    ])
  })

  test('asks for a model that there is not, has rows of the first calls and a number for the rest', async () => {
    const user = await newUser()
    const ask = () =>
      user.openai.chat.completions.create({ model: 'no/such-model', messages: [{ role: 'user', content: 'x' }] }).then(
        () => 'answered',
        (error: { code: string }) => error.code,
      )
    const day = () => new Date().toISOString().slice(0, 10)
    const from_day = day()
    const [before] = await sql`select value from private.settings where key = 'ai.refused_calls_per_hour'`
    await sql`update private.settings set value = '20' where key = 'ai.refused_calls_per_hour'`

    const codes = new Set(await flood(50, ask))
    await sql`update private.settings set value = ${before?.value} where key = 'ai.refused_calls_per_hour'`

    const usage = await user.client.rpc('get_my_usage', { from_day, to_day: day() })
    const rows = (await user.client.from('ai_calls').select('id')).data?.length ?? 0
    expect([...codes]).toEqual(['model_not_found'])
    // Twenty an hour: one may have ended meanwhile.
    expect(rows >= 20 && rows <= 40).toBe(true)
    const counted = (model: string) =>
      usage.data?.filter(({ model_id }) => model_id === model).reduce((sum, { calls }) => sum + calls, 0)
    expect([counted('(refused)'), counted('no/such-model')]).toEqual([50 - rows, rows])
  })

  test('ends its other sessions as often as it likes, and the log does not grow with it', async () => {
    const user = await newUser()

    const answers = await flood(130, () => user.client.rpc('revoke_my_other_sessions'))

    expect(tally(answers)).toEqual({ done: 130 })
    const [log] = await sql`
      select (select count(*)::int from private.audit_log where user_id = ${user.id} and action = 'session.revoke_others') as entries,
        (select held_back from private.audit_repeats where user_id = ${user.id} and action = 'session.revoke_others') as held_back`
    expect(log).toEqual({ entries: 100, held_back: 30 })
  })
})

describe('the mailbox of an owner', () => {
  test('is not filled by devices, of which there are only so many a minute', async () => {
    const user = await newUser()
    await allow(user, 'devices', 'minute', 6)
    const register = (index: number) =>
      user.client.rpc('register_device', { device_id: `made up ${index}`, name: 'x', type: 'web' })

    const answers = await flood(10, register)

    expect(tally(answers)).toEqual({ done: 6, '429 rate_limit_exceeded': 4 })
    expect(await mailsTo(user)).toBe(3)
  })

  test('is not filled by wrong passwords from many networks: three mails, and one that tells of the rest', async () => {
    const user = await newUser()
    const block = `127.${1 + Math.floor(Math.random() * 200)}`
    const guess = (index: number) =>
      fetchFrom(`${block}.${1 + Math.floor(index / 5)}.7`)(`${target().apiUrl}/auth/v1/token?grant_type=password`, {
        method: 'POST',
        headers: { apikey: target().publishableKey, 'content-type': 'application/json' },
        body: JSON.stringify({ email: user.email, password: `Wrong${index}Password` }),
      })

    await flood(40, guess)

    expect(await mailsTo(user)).toBe(3)
    await sql`update private.notice_counts set hour_ends_at = now() where user_id = ${user.id}`
    await expect.poll(() => mailsTo(user), { timeout: 90_000 }).toBe(4)
    const [digest] = await sql`select body from private.mails where user_id = ${user.id} and type = 'digest'`
    expect(digest?.body).toContain('5 x Sign-in was locked for a while')
  }, 120_000)
})
