/** What the gateway does with the headers of a signed request; whether it is valid is decided in the database. */
import { expect, test } from 'vitest'
import { readSignature } from '../../functions/_shared/ai/who-calls.ts'
import { createWorld, messages } from './ai-world.ts'

const nowhere = 'http://127.0.0.1:9'
const body = new TextEncoder().encode('{"a":"grüß"}')
const signed = { 'webhook-id': 'msg_1', 'webhook-timestamp': '1700000000', 'webhook-signature': 'v1,YQ== v1,Yg==' }

test('a request without the headers is not signed', () => {
  expect(readSignature(new Headers(), body)).toBeNull()
})

test('the bytes that were signed go to the database as they came', () => {
  expect(readSignature(new Headers(signed), body)).toEqual({
    id: 'msg_1',
    timestamp: '1700000000',
    signatures: ['v1,YQ==', 'v1,Yg=='],
    content: Buffer.from(body).toString('base64'),
  })
})

test('a megabyte is no problem', () => {
  const large = new Uint8Array(1_000_000).fill(200)

  expect(readSignature(new Headers(signed), large)?.content).toBe(Buffer.from(large).toString('base64'))
})

test.each(Object.keys(signed))('a request that lacks only %s is refused', (name) => {
  const headers = new Headers(signed)
  headers.delete(name)

  expect(() => readSignature(headers, body)).toThrow(
    expect.objectContaining({ code: 'invalid_signature', status: 401 }),
  )
})

test('the owner of the key hears of a signature that the database refuses', async () => {
  const key = 'pal_live_0123456789abcdefghjkmnpqrstvwxyz'
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key))
  const authorization = `Bearer ${key}${Buffer.from(digest).toString('hex').slice(0, 8)}`
  const refused = { admitted: false as const, code: 'invalid_signature', message: 'no' }
  const { send, seen, background } = createWorld(nowhere, { ledger: { admit: async () => refused } })

  const answer = await send('/chat/completions', {
    method: 'POST',
    headers: { authorization, ...signed },
    body: JSON.stringify({ model: 'echo', messages }),
  })
  await Promise.all(background)

  expect(answer.status).toBe(401)
  expect(seen.signatureFailures).toHaveLength(1)
})
