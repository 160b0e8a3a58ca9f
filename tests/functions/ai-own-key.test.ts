import { expect, test } from 'vitest'
import { admittedTo, createWorld, messages } from './ai-world.ts'

const id = crypto.randomUUID()
const asksFor = (credential: string) => ({
  headers: { authorization: 'Bearer good', 'x-provider-credential': credential },
})

test('the caller’s own key goes to the provider in the place of ours, and into no log', async () => {
  const sent: (string | null)[] = []
  const { chat, seen } = createWorld('http://provider.test', {
    ledger: {
      admit: async (request) => {
        seen.admitted.push(request)
        const admission = admittedTo('http://provider.test/v1', request.model)
        return { ...admission, routes: admission.routes.map((route) => ({ ...route, api_key: 'sk-their-own' })) }
      },
    },
    fetch: async (_url, init) => {
      sent.push(new Headers(init.headers).get('authorization'))
      return Response.json({
        choices: [{ index: 0, message: { content: 'Hi' } }],
        usage: { prompt_tokens: 1, completion_tokens: 1 },
      })
    },
  })

  expect((await chat({ model: 'demo/echo', messages }, asksFor(id))).status).toBe(200)
  expect(sent).toEqual(['Bearer sk-their-own'])
  expect(seen.admitted).toMatchObject([{ credential_id: id }])
  expect(JSON.stringify(seen.log)).not.toContain('sk-their-own')
})

test('without the header no credential is asked for', async () => {
  const { chat, seen } = createWorld('http://provider.test', {
    fetch: async () => new Response('no', { status: 400 }),
  })
  await chat({ model: 'demo/echo', messages })

  expect(seen.admitted).toMatchObject([{ credential_id: null }])
})

test('what is no id is told so, and reaches no ledger', async () => {
  const { chat, seen } = createWorld('http://provider.test')
  const answer = await chat({ model: 'demo/echo', messages }, asksFor('mine'))

  expect(answer.status).toBe(400)
  expect(await answer.json()).toMatchObject({ error: { code: 'invalid_request_error', param: 'credential' } })
  expect(seen.admitted).toEqual([])
})
