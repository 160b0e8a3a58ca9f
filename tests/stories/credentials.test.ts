/** A user's own key of an AI provider: given once, tested, sealed, used without credits, and gone when its owner says so. */
import { expect, test } from 'vitest'
import { z } from 'zod'
import { newUser, openaiFor, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

const model = 'demo/echo'
const messages = [{ role: 'user' as const, content: 'Hello, own key!' }]
const answered = z.looseObject({
  id: z.string().optional(),
  status: z.string().optional(),
  error: z.looseObject({ code: z.string(), message: z.string() }).optional(),
})

async function ask(user: TestUser | string, method: string, path: string, body?: unknown) {
  const token = typeof user === 'string' ? user : user.accessToken
  const response = await fetch(`${target().functionsUrl}/credentials${path}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, body: answered.parse(text === '' ? {} : JSON.parse(text)), text }
}

const add = async (user: TestUser, api_key = 'their-own-key-of-the-provider-Zz12') => {
  const { body } = await ask(user, 'POST', '', { provider: 'demo', name: 'Mine', api_key })
  return body.id ?? ''
}

const call = (user: TestUser, id: string) =>
  openaiFor(user.accessToken).chat.completions.create({ model, messages }, { headers: { 'x-provider-credential': id } })

test('is tested, shown by its last four, and pays for calls in the place of credits', async () => {
  const user = await newUser()

  const added = await ask(user, 'POST', '', {
    provider: 'demo',
    name: 'Mine',
    api_key: 'their-own-key-of-the-provider-Zz12',
  })

  expect(added).toMatchObject({ status: 201, body: { status: 'active', status_reason: null } })
  expect(added.text).not.toContain('Zz12')
  const { data } = await user.client.from('credentials').select('id, name, kind, provider, last_four, status')
  expect(data).toEqual([
    { id: added.body.id, name: 'Mine', kind: 'ai_provider', provider: 'demo', last_four: 'Zz12', status: 'active' },
  ])

  const before = await user.client.rpc('get_my_credits').single().throwOnError()
  expect((await call(user, added.body.id ?? '')).choices[0]?.message.content).toContain('Hello, own key!')
  expect((await user.client.rpc('get_my_credits').single().throwOnError()).data).toEqual(before.data)
})

test('works for nobody else', async () => {
  const [owner, stranger] = [await newUser(), await newUser()]
  const id = await add(owner)

  await expect(call(stranger, id)).rejects.toMatchObject({ status: 404 })
  expect((await stranger.client.from('credentials').select('id')).data).toEqual([])
  for (const [method, path, body] of [
    ['POST', `/${id}/test`],
    ['POST', `/${id}/rotate`, { api_key: 'sk-stolen' }],
    ['PATCH', `/${id}`, { name: 'mine now' }],
    ['DELETE', `/${id}`],
  ] as const)
    expect(await ask(stranger, method, path, body), path).toMatchObject({
      status: 404,
      body: { error: { code: 'not_found' } },
    })
  expect((await call(owner, id)).choices).toHaveLength(1)
})

test('is renamed, renewed, tested again, and deleted at once', async () => {
  const user = await newUser()
  const id = await add(user)

  expect(await ask(user, 'PATCH', `/${id}`, { name: 'Work' })).toMatchObject({ status: 200 })
  expect(await ask(user, 'POST', `/${id}/rotate`, { api_key: 'another-key-of-theirs-Yy34' })).toMatchObject({
    status: 200,
    body: { status: 'active' },
  })
  const { data } = await user.client.from('credentials').select('name, last_four')
  expect(data).toEqual([{ name: 'Work', last_four: 'Yy34' }])
  expect(await ask(user, 'POST', `/${id}/test`)).toMatchObject({
    status: 429,
    body: { error: { code: 'rate_limit_exceeded' } },
  })

  expect(await ask(user, 'DELETE', `/${id}`)).toMatchObject({ status: 204 })
  await expect(call(user, id)).rejects.toMatchObject({ status: 404 })
})

test('is in the log as renamed by its owner, from where the request came', async () => {
  const user = await newUser()
  const id = await add(user)
  const headers = {
    authorization: `Bearer ${user.accessToken}`,
    'x-request-id': 'rename-7',
    'user-agent': 'an-app/1.0',
  }
  const body = JSON.stringify({ name: 'Work' })

  await fetch(`${target().functionsUrl}/credentials/${id}`, { method: 'PATCH', headers, body })

  const columns = 'actor_id, actor_role, user_agent, request_id, ip'
  const { data } = await user.client.from('audit_log').select(columns).eq('action', 'credential.rename')
  expect(data).toEqual([
    {
      ...{ actor_id: user.id, actor_role: 'authenticated', user_agent: 'an-app/1.0', request_id: 'rename-7' },
      ip: expect.stringMatching(/^[\d.:a-f]+$/),
    },
  ])
})

test('a browser may rename and delete, not only add', async () => {
  const preflight = await fetch(`${target().functionsUrl}/credentials/${crypto.randomUUID()}`, {
    method: 'OPTIONS',
    headers: { origin: 'https://app.example.com', 'access-control-request-method': 'DELETE' },
  })

  expect(preflight.status).toBe(204)
  expect(preflight.headers.get('access-control-allow-methods')).toBe('POST, PATCH, DELETE, OPTIONS')
})

test('refusals are clear and repeat nothing of what was sent', async () => {
  const user = await newUser()
  const canary = 'sk-canary-🤫'
  const cases: [unknown, number, string][] = [
    [{ provider: 'demo', name: 'x', api_key: canary }, 400, 'invalid_request_error'],
    [{ provider: 'demo', name: 'x', api_key: 'sk-canary\r\nx: y' }, 400, 'invalid_request_error'],
    [{ provider: 'demo', name: '', api_key: 'sk-canary' }, 400, 'invalid_request_error'],
    [{ provider: 'nobody', name: 'x', api_key: 'sk-canary' }, 404, 'not_found'],
    [{ provider: 'demo', name: 'x', api_key: 'sk-canary', secret: 'sk-canary' }, 400, 'invalid_request_error'],
    [{ provider: 'demo', name: 'x', api_key: `sk-canary${'x'.repeat(20_000)}` }, 413, 'request_too_large'],
  ]

  for (const [body, status, code] of cases) {
    const answer = await ask(user, 'POST', '', body)
    expect(answer).toMatchObject({ status, body: { error: { code } } })
    expect(answer.text).not.toContain('canary')
  }
  const key = await user.client
    .rpc('create_api_key', { name: 'k', scopes: ['models'] })
    .single()
    .throwOnError()
  expect(await ask(key.data.secret, 'POST', '', cases[0]?.[0])).toMatchObject({
    status: 403,
    body: { error: { code: 'not_allowed' } },
  })
  expect(await ask('nonsense', 'POST', '', cases[0]?.[0])).toMatchObject({ status: 401 })
  expect((await user.client.from('credentials').select('id')).data).toEqual([])
})
