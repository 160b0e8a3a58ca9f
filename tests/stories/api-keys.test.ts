/** A service with an API key instead of a session: the official client, the key's own limits, rotation, revocation, signatures. */
import { createHmac } from 'node:crypto'
import OpenAI from 'openai'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { newUser, openaiFor, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

const model = 'demo/echo'
const messages = [{ role: 'user' as const, content: 'Hello, key!' }]
const scopes = ['chat.completions', 'models']

async function newKey(user: TestUser): Promise<{ id: string; secret: string }> {
  const { data } = await user.client.rpc('create_api_key', { name: 'Service', scopes }).single().throwOnError()
  return data
}

const answered = z.looseObject({ error: z.looseObject({ code: z.string() }).optional() })

const ask = (secret: string) => openaiFor(secret).chat.completions.create({ model, messages })
const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) =>
      error instanceof OpenAI.APIError ? { status: error.status, code: error.code } : Promise.reject(error),
  )

test('a key calls for its owner, within its scopes, and is in the usage', async () => {
  const user = await newUser()
  const { id, secret } = await newKey(user)

  expect((await ask(secret)).choices[0]?.message.content).toContain('Hello, key!')
  expect((await openaiFor(secret).models.list()).data.map((one) => one.id)).toContain(model)
  expect(await refusal(openaiFor(secret).embeddings.create({ model: 'demo/embed', input: 'x' }))).toEqual({
    status: 403,
    code: 'not_allowed',
  })

  const { data: calls } = await user.client.from('ai_calls').select('api_key_id, state').eq('state', 'settled')
  expect(calls).toEqual([{ api_key_id: id, state: 'settled' }])
  // From yesterday to tomorrow: the day may have ended since the call.
  const dayIn = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10)
  const { data: usage } = await user.client.rpc('get_my_usage', { from_day: dayIn(-1), to_day: dayIn(1) })
  expect(usage).toMatchObject([
    { model_id: model, endpoint: 'chat.completions', calls: 1, failed_calls: 0, credits: 1 },
  ])
})

test('a key has limits of its own beside its owner’s', async () => {
  const user = await newUser()
  const { id, secret } = await newKey(user)
  await user.client.rpc('limit_api_key', { id, meter: 'ai_requests', period: 'minute', amount: 1 }).throwOnError()

  await ask(secret)
  expect(await refusal(ask(secret))).toEqual({ status: 429, code: 'rate_limit_exceeded' })
  expect((await user.openai.chat.completions.create({ model, messages })).choices).toHaveLength(1)
})

test('the old secret works until the overlap is over, and nothing does after a revocation', async () => {
  const user = await newUser()
  const { id, secret } = await newKey(user)
  const renew = async (overlap_seconds: number) =>
    (await user.client.rpc('rotate_api_key', { id, overlap_seconds }).single().throwOnError()).data.secret

  const second = await renew(60)
  await Promise.all([ask(secret), ask(second)])
  const third = await renew(0)
  expect(await refusal(ask(second))).toEqual({ status: 401, code: 'invalid_api_key' })
  await ask(third)
  await user.client.rpc('revoke_api_key', { id }).throwOnError()
  expect(await refusal(ask(third))).toEqual({ status: 401, code: 'invalid_api_key' })
})

test('a key that must sign: only what is signed passes, once', async () => {
  const user = await newUser()
  const { id, secret } = await newKey(user)
  const { data: signingSecret } = await user.client.rpc('sign_api_key', { id }).throwOnError()
  const body = JSON.stringify({ model, messages })
  const send = (messageId: string, key = signingSecret, sent = body) => {
    const timestamp = String(Math.floor(Date.now() / 1_000))
    const bytes = Buffer.from(key.replace(/^whsec_/, ''), 'base64')
    const signature = createHmac('sha256', bytes).update(`${messageId}.${timestamp}.${body}`).digest('base64')
    return fetch(`${target().functionsUrl}/ai/v1/chat/completions`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${secret}`,
        'content-type': 'application/json',
        'webhook-id': messageId,
        'webhook-timestamp': timestamp,
        'webhook-signature': `v1,${signature}`,
      },
      body: sent,
    }).then(async (answer) => [answer.status, answered.parse(await answer.json()).error?.code])
  }
  const once = `msg_${crypto.randomUUID()}`

  expect(await refusal(ask(secret))).toEqual({ status: 401, code: 'invalid_signature' })
  expect(await send(once)).toEqual([200, undefined])
  expect(await send(once)).toEqual([401, 'invalid_signature'])
  expect(await send(crypto.randomUUID(), `whsec_${Buffer.from('another').toString('base64')}`)).toEqual([
    401,
    'invalid_signature',
  ])
  expect(await send(crypto.randomUUID(), signingSecret, body.replace('Hello', 'Other'))).toEqual([
    401,
    'invalid_signature',
  ])
})
