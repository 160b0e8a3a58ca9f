/** The main service of a self-hosted Edge Runtime, with a runtime that does as it is told. */
import { expect, test } from 'vitest'
import { createRouter, type Worker, type WorkerOptions, type World } from '../../deploy/self-hosted/main/route.ts'

const named = (name: string) => Object.assign(new Error(name), { name })

function runtime(fetch: Worker['fetch']) {
  const created: WorkerOptions[] = []
  const lines: unknown[] = []
  const world: World = {
    folder: '/home/deno/functions',
    names: new Set(['ai', 'stripe-webhook']),
    environment: { SUPABASE_URL: 'http://api-gw:8000', PATH: '/bin', HOSTNAME: 'x' },
    createWorker: async (options) => {
      created.push(options)
      return { fetch }
    },
    log: (line) => lines.push(line),
  }
  return { route: createRouter(world), created, lines }
}

const ask = (path: string) => new Request(`http://functions:9000${path}`, { method: 'POST', body: '{}' })

test.each(['/', '/_shared/env.ts', '/main', '/../etc/passwd', '/ai%2f..', '/AI'])('%s is no function', async (path) => {
  const { route, created } = runtime(async () => new Response('reached'))

  const response = await route(ask(path))

  expect(response.status).toBe(404)
  expect(await response.json()).toMatchObject({ code: 'not_found', error: { code: 'not_found' } })
  expect(created).toEqual([])
})

test('a request goes as it came to the worker of its function, which knows nothing of the machine', async () => {
  const seen: Request[] = []
  const { route, created } = runtime(async (request) => {
    seen.push(request)
    return new Response('answered')
  })
  const request = ask('/ai/v1/chat/completions')

  expect(await (await route(request)).text()).toBe('answered')
  // The very one: the runtime knows a connection by its request, and a copy has none.
  expect(seen[0]).toBe(request)
  expect(created[0]).toMatchObject({
    servicePath: '/home/deno/functions/ai',
    envVars: [['SUPABASE_URL', 'http://api-gw:8000']],
    context: { importMapPath: '/home/deno/functions/deno.json' },
    // Both zero is how the runtime says none.
    cpuTimeSoftLimitMs: 0,
    cpuTimeHardLimitMs: 0,
  })
})

test('a worker that has just retired is replaced, and the caller hears nothing of it', async () => {
  const attempts: number[] = []
  const { route } = runtime(async () => {
    attempts.push(1)
    if (attempts.length === 1) throw named('WorkerAlreadyRetired')
    return new Response('answered')
  })

  expect(await (await route(ask('/ai/v1/models'))).text()).toBe('answered')
  expect(attempts).toHaveLength(2)
})

test.each(['WorkerAlreadyRetired', 'WorkerRequestCancelled', 'InvalidWorkerCreation'])(
  'what fails with %s is a 503 that says when to come back, and a line in the log',
  async (name) => {
    const { route, created, lines } = runtime(async () => {
      throw named(name)
    })

    const response = await route(ask('/stripe-webhook'))

    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '5'])
    expect(await response.json()).toMatchObject({ code: 'service_unavailable', error: { type: 'server_error' } })
    expect(lines).toMatchObject([{ level: 'error', message: 'function stripe-webhook does not answer' }])
    // A request that may have been seen is not sent again: it may have been charged.
    expect(created).toHaveLength(name === 'WorkerAlreadyRetired' ? 3 : 1)
  },
)

test('health is asked of the main service alone', async () => {
  const { route, created } = runtime(async () => new Response('reached'))

  expect(await (await route(new Request('http://functions:9000/_health'))).json()).toEqual({ ok: true })
  expect(created).toEqual([])
})
