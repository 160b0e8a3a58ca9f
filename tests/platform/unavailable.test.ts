/** What the gateway answers in the place of what is not there: for every service its own shape, and when to come again. */
import { expect, test } from 'vitest'
import { projectFile, readConfig } from '../../stack/config.ts'
import { readProjectSettings } from '../../stack/platform/auth/settings.ts'
import { createGateway, refuseWhileStarting } from '../../stack/platform/gateway.ts'
import { makePlatformKeys } from '../../stack/platform/keys.ts'
import { freePort } from '../../stack/platform/scratch.ts'

const url = 'http://127.0.0.1:54321'
const refusals = (message: string): [path: string, body: unknown][] => [
  [
    '/functions/v1/ai/v1/models',
    { error: { message, type: 'server_error', param: null, code: 'service_unavailable' } },
  ],
  ['/auth/v1/settings', { code: 503, error_code: 'unexpected_failure', msg: message }],
  ['/rest/v1/plans', { code: 'PGRST001', details: null, hint: null, message }],
  ['/storage/v1/bucket', { statusCode: '503', error: 'ServiceUnavailable', message }],
]
const facts = async (answer: Response) => ({
  status: answer.status,
  retryAfter: answer.headers.get('retry-after'),
  origin: answer.headers.get('access-control-allow-origin'),
  body: await answer.json(),
})
const refused = (body: unknown) => ({ status: 503, retryAfter: '1', origin: '*', body })

test.each(refusals('The service does not answer.'))('%s, when nobody listens there', async (path, body) => {
  const keys = await makePlatformKeys()
  const gone = `http://127.0.0.1:${await freePort()}`
  const real = { PALISADE_AUTH_URL: gone, PALISADE_REST_URL: gone, PALISADE_STORAGE_URL: gone }
  const { platform } = readConfig(real)
  const gateway = await createGateway({
    config: { ...platform, urls: { ...platform.urls, functions: [gone] } },
    keys,
    settings: readProjectSettings(projectFile, 3000),
    dbUrl: () => 'postgresql://127.0.0.1:9/none',
    deliverMail: async () => {},
    log: () => {},
  })

  const answer = await gateway.fetch(new Request(`${url}${path}`, { headers: { apikey: keys.secretKey } }), {
    address: '127.0.0.1',
  })

  expect(await facts(answer)).toEqual(refused(body))
  await gateway.close()
})

test.each(refusals('The stack is starting.'))('%s, while the stack starts', async (path, body) => {
  expect(await facts(refuseWhileStarting(new Request(`${url}${path}`)))).toEqual(refused(body))
})

test('a browser that asks first learns, while the stack starts, that it may ask', () => {
  const headers = { origin: 'http://localhost:3000', 'access-control-request-method': 'POST' }

  const { status, headers: said } = refuseWhileStarting(
    new Request(`${url}/rest/v1/plans`, { method: 'OPTIONS', headers }),
  )

  expect([status, said.get('access-control-allow-origin')]).toEqual([204, '*'])
})
