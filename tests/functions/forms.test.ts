/** The forms that the AI function knows without the schema library, beside what that library says of the same. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { readEnv, variables } from '../../functions/_shared/env.ts'
import { hasFields, isListOf, isNullOr, isNumber, isText, isUrl, isUuid } from '../../functions/_shared/forms.ts'
import { clientAddress } from '../../functions/_shared/http/request-headers.ts'

/** Something good with some of its characters changed. */
const around = (...good: string[]) =>
  fc
    .tuple(
      fc.constantFrom(...good),
      fc.nat(60),
      fc.nat(2),
      fc.constantFrom('', ' ', ':', '.', '/', '%', '0', '256', 'g', 'F'),
    )
    .map(([text, at, length, put]) => text.slice(0, at) + put + text.slice(at + length))
const times = { numRuns: 3_000 }

test('addresses of callers', () => {
  const address = z.union([z.ipv4(), z.ipv6()])
  const given = around('192.168.1.255', '0.0.0.0', '2001:db8::ff00:42:8329', '::1', '::ffff:10.0.0.1', 'fe80::1%eth0')
  const told = (text: string) => clientAddress(new Headers({ 'x-forwarded-for': `1.1.1.1, ${text}` }))

  fc.assert(
    fc.property(given, (text) => {
      fc.pre(text.trim() === text && text !== '')
      expect(told(text)).toBe(address.safeParse(text).success ? text : null)
    }),
    times,
  )
  expect(told('2001:db8::1')).toBe('2001:db8::1')
})

test('ids', () => {
  const given = around('0198c7ee-7b1d-7e30-9a4c-1f2e3d4c5b6a', '00000000-0000-0000-0000-000000000000', '')

  fc.assert(
    fc.property(given, (text) => {
      expect(isUuid(text)).toBe(z.guid().safeParse(text).success)
    }),
    times,
  )
})

test('addresses of providers: nothing that the schema would refuse', () => {
  const schema = z.url({ protocol: /^https?$/ })
  const given = around('https://a.example.com/v1', 'http://127.0.0.1:54325/v1?x=1', 'http://[::1]:1/', 'ftp://x.test/')
  let taken = 0

  fc.assert(
    fc.property(given, (text) => {
      if (!isUrl(text, /^https?$/)) return
      taken += 1
      expect(schema.safeParse(text).success).toBe(true)
    }),
    times,
  )
  expect(taken).toBeGreaterThan(500)
})

test('fields, lists and what may be null', () => {
  const isOrder = hasFields({ id: isText, parts: isListOf(hasFields({ count: isNumber })), note: isNullOr(isText) })
  const good = { id: 'x', parts: [{ count: 0, more: 1 }], note: null }

  expect(isOrder(good)).toBe(true)
  for (const bad of [null, 'x', [good], { ...good, id: 1 }, { ...good, note: undefined }, { ...good, parts: {} }])
    expect(isOrder(bad)).toBe(false)
  for (const count of [Number.NaN, Number.POSITIVE_INFINITY, '1', null])
    expect(isOrder({ ...good, parts: [{ count }] })).toBe(false)
})

test.each<[keyof typeof variables, string]>([
  ['SUPABASE_URL', 'example.com'],
  ['SUPABASE_DB_URL', 'https://example.com'],
  ['AI_DB_URL', 'postgres'],
  ['DB_CA_CERT', 'a certificate'],
  ['SUPABASE_SECRET_KEYS', '{"default":1}'],
  ['SUPABASE_JWKS', '{"keys":[{}]}'],
  ['JWT_SECRET', 'x'.repeat(31)],
  ['AUTH_ISSUER', 'a b'],
  ['SMTP_URL', 'http://mail.test'],
  ['MAIL_FROM', 'nobody'],
  ['STRIPE_SECRET_KEY', 'sk_live'],
  ['STRIPE_WEBHOOK_SECRETS', 'whsec_a,'],
  ['STRIPE_API_URL', 'stripe'],
  ['EXCHANGES_GAP_MS', '0'],
  ['EXCHANGES_GAP_MS', '1.5'],
  ['BILLING_RETURN_URLS', 'https://a.test,b.test'],
])('the variable %s is not %s', (name, text) => {
  const read = () => readEnv({ [name]: variables[name] }, () => text)

  expect(read).toThrow(`${name}: `)
  expect(read).not.toThrow(new RegExp(`: .*${text.replace(/[^\w]/g, '.')}`))
})

test('variables are what they are used as', () => {
  const { SUPABASE_URL, DB_CA_CERT, STRIPE_WEBHOOK_SECRETS, EXCHANGES_GAP_MS, AUTH_ISSUER } = variables
  const given: Record<string, string> = {
    SUPABASE_URL: ' https://a.test// ',
    DB_CA_CERT: '-----BEGIN CERTIFICATE-----\\nAA==',
    STRIPE_WEBHOOK_SECRETS: 'whsec_a, whsec_b',
    EXCHANGES_GAP_MS: '5',
    AUTH_ISSUER: '',
  }
  const asked = { SUPABASE_URL, DB_CA_CERT, STRIPE_WEBHOOK_SECRETS, EXCHANGES_GAP_MS, AUTH_ISSUER }

  expect(readEnv(asked, (name) => given[name])).toEqual({
    SUPABASE_URL: 'https://a.test',
    DB_CA_CERT: '-----BEGIN CERTIFICATE-----\nAA==',
    STRIPE_WEBHOOK_SECRETS: ['whsec_a', 'whsec_b'],
    EXCHANGES_GAP_MS: 5,
    AUTH_ISSUER: undefined,
  })
})
