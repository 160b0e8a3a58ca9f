import { expect, test } from 'vitest'
import { identifyCaller, verifyApiKey } from '../../functions/_shared/auth/identify-caller.ts'
import { clientAddress } from '../../functions/_shared/http/request-headers.ts'

// 32 characters of a key that no database ever made, with the checksum that belongs to them.
const key = 'pal_live_0123456789abcdefghjkmnpqrstvwxyz'
const withChecksum = async (text: string) => {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return text + Buffer.from(digest).toString('hex').slice(0, 8)
}
const nobody = { verifyUserToken: () => Promise.reject(new Error('a token was not expected')) }

test('a key is a caller by its SHA-256; the key itself goes no further', async () => {
  const secret = await withChecksum(key)

  const caller = await identifyCaller(new Headers({ authorization: `Bearer ${secret}` }), nobody)

  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(secret))
  expect(caller).toEqual({ kind: 'api_key', keyHash: Buffer.from(digest).toString('hex') })
})

test.each([
  ['one character changed', (secret: string) => secret.replace('0123', '0124')],
  ['one character missing', (secret: string) => secret.slice(0, -1)],
  ['a wrong checksum', (secret: string) => `${secret.slice(0, -8)}00000000`],
  ['letters that keys do not have', (secret: string) => secret.replace('0', 'u')],
  ['nothing but the beginning', () => 'pal_live_'],
])('%s is refused without a question to the database', async (_, spoil) => {
  await expect(verifyApiKey(spoil(await withChecksum(key)))).rejects.toMatchObject({
    code: 'invalid_api_key',
    status: 401,
  })
})

test.each([
  ['203.0.113.9', '203.0.113.9'],
  ['6.6.6.6, 203.0.113.9', '203.0.113.9'],
  ['6.6.6.6,2001:db8::1', '2001:db8::1'],
  ['203.0.113.9, not an address', null],
  ['', null],
])('the address of "%s" is %s: what the platform added, never what was sent along', (header, address) => {
  expect(clientAddress(new Headers({ 'x-forwarded-for': header }))).toBe(address)
})
