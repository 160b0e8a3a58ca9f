import { expect, test } from 'vitest'
import { createBackground, createRouter } from '../../stack/platform/functions-server.ts'

const get = (path: string) => new Request(`http://127.0.0.1${path}`)

test('a function that does not start or fails answers an error of its own, and the others go on', async () => {
  const log: unknown[] = []
  const functions: Record<string, () => Promise<(request: Request) => Response>> = {
    broken: () => Promise.reject(new Error('SUPABASE_URL is missing')),
    failing: async () => () => {
      throw new Error('boom')
    },
    good: async () => () => new Response('fine'),
  }
  const router = createRouter(
    (name) => functions[name]?.(),
    (line) => log.push(line),
  )
  const answers: Response[] = []
  for (const path of ['/broken/', '/failing/x', '/good/x', '/none/', '/_shared/x', '/..%2fx', '/_health']) {
    answers.push(await router(get(path)))
  }

  expect(answers.map(({ status }) => status)).toEqual([503, 500, 200, 404, 404, 404, 200])
  expect(answers[0]?.headers.get('retry-after')).toBe('5')
  expect(await answers[0]?.json()).toMatchObject({ error: { type: 'server_error', param: null, code: 'internal' } })
  expect(JSON.stringify(log)).toContain('SUPABASE_URL is missing')
})

test('a shutdown waits for what runs after the answers, also for what that starts', async () => {
  const log: unknown[] = []
  const { waitUntil, drain } = createBackground((line) => log.push(line))
  const done: string[] = []
  waitUntil(Promise.reject(new Error('lost')))
  waitUntil(Promise.resolve().then(() => waitUntil(Promise.resolve().then(() => done.push('second')))))

  await drain()

  expect(done).toEqual(['second'])
  expect(JSON.stringify(log)).toContain('lost')
})
