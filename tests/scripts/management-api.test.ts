/** Supabase's Management API when it does not answer as it should, and what its CLI is given: nothing goes where it should not. */

import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { connectManagementApi } from '../../scripts/shared/management-api.ts'
import { remoteOf } from '../../stack/supabase-cli.ts'

let supabase: Server
let elsewhere: Server
let answer: { status: number; text: string }
let seenElsewhere: number

const urlOf = (server: Server, host = '127.0.0.1') => `http://${host}:${(server.address() as AddressInfo).port}`

beforeAll(async () => {
  elsewhere = createServer((_, response) => {
    seenElsewhere += 1
    response.end('[]')
  })
  supabase = createServer((request, response) => {
    request.resume().once('end', () => {
      response.writeHead(answer.status, { location: `${urlOf(elsewhere, 'localhost')}/` }).end(answer.text)
    })
  })
  for (const server of [supabase, elsewhere]) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
  }
})
afterAll(() => {
  for (const server of [supabase, elsewhere]) server.close()
})
beforeEach(() => {
  seenElsewhere = 0
})

const ref = 'abcdefghijklmnopqrst'
const connected = () => connectManagementApi(ref, 'sbp_token', urlOf(supabase))

test.each([301, 302, 303, 307, 308])('a secret does not go where an answer of %i leads', async (status) => {
  answer = { status, text: '' }

  await expect(connected().setSecrets(new Map([['AI_DB_URL', 'secret']]))).rejects.toThrow(`answers ${status}`)

  expect(seenElsewhere).toBe(0)
})

test('a question does not follow either', async () => {
  answer = { status: 302, text: '' }

  await expect(connected().get('', z.unknown())).rejects.toThrow('302')

  expect(seenElsewhere).toBe(0)
})

test('what is no JSON is said, and not shown: it may be half a key', async () => {
  answer = { status: 200, text: '[{"type":"secret","api_key":"sb_secret_half' }

  const refused = connected().apiKeys()

  await expect(refused).rejects.toThrow('something else than JSON')
  await expect(refused).rejects.not.toThrow('half')
})

test.each([
  'postgresql://postgres:a%40b@db.example.com:5432/postgres',
  'postgresql://postgres@db.example.com:5432/postgres?password=a%40b',
])('of %s the CLI gets the password in its environment alone', (url) => {
  const { flag, env } = remoteOf(url)

  expect([flag, env]).toEqual(['--remote=postgresql://postgres@db.example.com:5432/postgres', { PGPASSWORD: 'a@b' }])
})
