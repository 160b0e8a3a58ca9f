/** What the URL of a database decides. */
import { expect, test } from 'vitest'
import { readDatabaseUrl } from '../../functions/_shared/database-url.ts'

const at = (host: string, query = '') => `postgresql://user:pa%40ss@${host}/postgres${query}`
const unchecked = { rejectUnauthorized: false }
const checked = { rejectUnauthorized: true }
const ca = 'an authority'

test.each([
  ['this machine', ['localhost:5432', '127.0.0.1:5432', '[::1]:5432', '%2Fvar%2Frun%2Fpostgresql'], false, false],
  ['a private network', ['db:5432', '10.0.0.5', '172.20.0.2', '192.168.1.9', '[fd00::1]:5432'], 'prefer', checked],
  [
    'anywhere else',
    [
      ...['db.abc.supabase.co:5432', 'x.pooler.supabase.com:6543', '172.32.0.2', '203.0.113.9', '[2001:db8::1]'],
      ...['127.example.com', '10.example.com', '192.168.example.com'],
    ],
    unchecked,
    checked,
  ],
])('without sslmode, at %s', (_, hosts, ssl, sslWithCa) => {
  const wanted = (value: unknown) => (typeof value === 'object' ? expect.objectContaining(value) : value)
  for (const host of hosts) {
    expect([host, readDatabaseUrl(at(host)).ssl]).toEqual([host, wanted(ssl)])
    expect([host, readDatabaseUrl(at(host), ca).ssl]).toEqual([host, wanted(sslWithCa)])
  }
})

test.each([
  ['db.abc.supabase.co:5432', '', false],
  ['x.pooler.supabase.com:6543', '', true],
  ['x.pooler.supabase.com:6543', '?pgbouncer=false', false],
  ['pgbouncer:6432', '', false],
  ['pgbouncer:6432', '?pgbouncer=true', true],
])('%s%s is a pooler in transaction mode: %s', (host, query, isPooled) => {
  expect(readDatabaseUrl(at(host, query)).isPooled).toBe(isPooled)
})

test('what is ours in it does not reach the server, and the rest stays', () => {
  const { url } = readDatabaseUrl(at('db:1', '?sslmode=require&pgbouncer=true&sslrootcert=system&application_name=x'))

  expect(url).toBe(at('db:1', '?application_name=x'))
})

test.each(['sslmode=sometimes', 'pgbouncer=yes', 'sslrootcert=/etc/ca.pem'])(
  '%s is refused, without the password',
  (query) => {
    const read = () => readDatabaseUrl(at('db', `?${query}`))

    expect(read).toThrow(new RegExp(query.split('=')[0] ?? ''))
    expect(read).not.toThrow(/pa(%40|@)ss/)
  },
)
