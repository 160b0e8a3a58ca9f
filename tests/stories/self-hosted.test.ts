/** Functions with nothing but what self-hosted Supabase gives them, beside the stack's own: same database, same Auth. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { functionFiles } from '../../stack/config.ts'
import { startFunctions } from '../../stack/platform/functions.ts'
import { freePort } from '../../stack/platform/scratch.ts'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

let functions: ReturnType<typeof startFunctions>
let url: string
let user: TestUser
beforeAll(async () => {
  const port = await freePort()
  url = `http://127.0.0.1:${port}`
  const env = {
    SUPABASE_URL: target().apiUrl,
    SUPABASE_ANON_KEY: target().publishableKey,
    SUPABASE_SERVICE_ROLE_KEY: target().secretKey,
    SUPABASE_DB_URL: target().dbUrl,
    JWT_SECRET: 'a secret that self-hosted services share',
  }
  functions = startFunctions({ files: functionFiles, port, env, watch: false, log: () => {} })
  ;[user] = await Promise.all([newUser(), functions.ready()])
})
afterAll(() => functions.stop())

const ask = (path: string, headers: Record<string, string>, body?: object) =>
  fetch(`${url}${path}`, { method: 'POST', headers, ...(body && { body: JSON.stringify(body) }) })
const asUser = () => ({ authorization: `Bearer ${user.accessToken}`, 'content-type': 'application/json' })

test.each(['account', 'ai', 'billing', 'credentials', 'jobs', 'portfolio', 'stripe-webhook'])(
  '%s starts',
  async (name) => {
    const answer = await ask(`/${name}`, {})

    // Without a key of Stripe there is nothing to sell, which the function itself says.
    expect(await answer.text()).not.toContain('does not start')
  },
)

test('users are known by the keys that the project lists, and others are not', async () => {
  const messages = [{ role: 'user', content: 'Hello' }]
  const chat = (token: string) =>
    ask('/ai/v1/chat/completions', { ...asUser(), authorization: `Bearer ${token}` }, { model: 'demo/echo', messages })

  expect((await chat(user.accessToken)).status).toBe(200)
  expect((await chat(`${user.accessToken.slice(0, -8)}AAAAAAAA`)).status).toBe(401)
  expect((await ask('/portfolio/sync', asUser())).status).toBeLessThan(300)
})

test('jobs are started with the legacy key, and with no other', async () => {
  const job = async (apikey: string) => (await ask('/jobs/send-mails', { apikey })).status

  expect([await job(target().publishableKey), await job('')]).toEqual([401, 401])
  // The job is reached: what it lacks is a mail server.
  expect(await job(target().secretKey)).toBe(503)
  expect((await ask('/jobs/check-uploads', { apikey: target().secretKey })).status).toBe(200)
})
