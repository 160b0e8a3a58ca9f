/** Functions and scripts before a database that demands TLS, and before one that has none. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:https'
import { join } from 'node:path'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { answer, callSql, connectDatabase } from '../../functions/_shared/db.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'
import { diagnose } from '../../scripts/doctor/diagnose.ts'
import { readTarget } from '../../scripts/doctor/target.ts'
import { root } from '../../stack/config.ts'
import { denoBinary, denoOffline } from '../../stack/platform/functions.ts'
import { runScript } from '../support/run-script.ts'
import { startTlsDatabase } from '../support/tls-database.ts'

let database: Awaited<ReturnType<typeof startTlsDatabase>>
beforeAll(async () => {
  database = await startTlsDatabase()
})
afterAll(() => database.stop())

const isEncrypted = `select case when ssl then 'with TLS' else 'without' end as answer from pg_stat_ssl where pid = pg_backend_pid()`

/** What a function comes to: how it is connected, or what its log says. */
async function connectAs(url: string, ca?: string): Promise<string> {
  const sql = connectDatabase(url, { ca })
  try {
    return await callSql(sql.unsafe(isEncrypted), answer(z.string()))
  } catch (error) {
    return describeFailure(error)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

const demands = 'the database demands TLS: use sslmode=require or a stricter one'
const untrusted = (code: string) =>
  `the certificate of the database is not trusted (${code}): DB_CA_CERT is not its authority`

test('without TLS the database refuses, and the log says what to do', async () => {
  expect(await connectAs(database.url())).toBe(demands)
  expect(await connectAs(database.url('sslmode=disable'))).toBe(demands)
})

test('with TLS asked for it is encrypted, whoever answers', async () => {
  expect(await connectAs(database.url('sslmode=require'))).toBe('with TLS')
  expect(await connectAs(database.url('sslmode=prefer'))).toBe('with TLS')
})

test('with the authority the certificate is checked, and so is its name', async () => {
  const { ca, otherCa, url } = database

  expect(await connectAs(url('sslmode=verify-full'), ca)).toBe('with TLS')
  expect(await connectAs(url('sslmode=verify-full'))).toBe(untrusted('DEPTH_ZERO_SELF_SIGNED_CERT'))
  expect(await connectAs(url('sslmode=verify-full'), otherCa)).toMatch(
    /^the certificate of the database is not trusted/,
  )
  expect(await connectAs(url('sslmode=verify-full', '127.0.0.1'), ca)).toBe(
    'the certificate of the database is for another name',
  )
  expect(await connectAs(url('sslmode=verify-ca', '127.0.0.1'), ca)).toBe('with TLS')
  expect(await connectAs(url('sslmode=require', '127.0.0.1'), ca)).toBe('with TLS')
  expect(await connectAs(url('sslmode=require'), otherCa)).toMatch(/^the certificate of the database is not trusted/)
})

test('the same holds in Deno, where functions run', async () => {
  const { ca, otherCa, url } = database
  const ask = [
    [url(), null],
    [url('sslmode=require'), null],
    [url('sslmode=verify-full'), ca],
    [url('sslmode=verify-full'), null],
    [url('sslmode=verify-full'), otherCa],
    [url('sslmode=verify-full', '127.0.0.1'), ca],
    [url('sslmode=verify-ca', '127.0.0.1'), ca],
  ]
  const program = fileURLToPath(new URL('../support/ask-over-tls.ts', import.meta.url))
  const flags = [...denoOffline, '--allow-net', '--allow-env', '--allow-read']
  const { stdout } = await promisify(execFile)(
    denoBinary(),
    ['run', ...flags, '--config', join(root, 'functions/deno.json'), program],
    { env: { ...process.env, NO_COLOR: '1', ASK: JSON.stringify(ask) } },
  )

  expect(JSON.parse(stdout)).toEqual([
    ...[demands, 'with TLS', 'with TLS'],
    ...[expect.stringMatching(/not trusted/), expect.stringMatching(/not trusted/)],
    ...['the certificate of the database is for another name', 'with TLS'],
  ])
})

test('scripts reach it as functions do, and say what is wrong', async () => {
  const run = async (query: string, DB_CA_CERT = '') => {
    const env = { PATH: process.env.PATH, DB_URL: database.url(query), DB_CA_CERT, NO_COLOR: '1' }
    return (await runScript('keys-rotate', [], env)).output.trim()
  }
  const lacksOurs = 'palisade: The database lacks something of ours'

  expect(await run('')).toBe(`palisade: DB_URL: ${demands}.`)
  expect(await run('sslmode=verify-full')).toBe(`palisade: DB_URL: ${untrusted('DEPTH_ZERO_SELF_SIGNED_CERT')}.`)
  expect(await run('sslmode=sometimes')).toMatch(/^palisade: In the URL of a database sslmode is disable, /)
  expect(await run('sslmode=verify-full', database.ca)).toContain(lacksOurs)
  expect(await run('sslmode=require')).toContain(lacksOurs)
})

/** By an address that leads to this machine here, and that the doctor does not take for one of it. */
const diagnosed = async (mode: string) => {
  const DB_URL = database.url(mode, '0.0.0.0')
  const findings = await diagnose(await readTarget({}, { DB_URL }), { only: ['database-tls'] })
  return findings.map(({ what }) => what)
}

test('the doctor is content with a database that takes nothing else', async () => {
  expect(await diagnosed('sslmode=require')).toEqual(['TLS only'])
})

test('an API is found whose certificate nobody knows, or that ends within days', async () => {
  const server = createServer({ key: database.key, cert: database.ca }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const SUPABASE_URL = `https://localhost:${typeof address === 'object' ? address?.port : ''}`
  const target = await readTarget({}, { DB_URL: database.url('sslmode=require'), SUPABASE_URL })
  const found = async () => (await diagnose(target, { only: ['api-tls'] })).map(({ what }) => what)
  const known = getCACertificates()

  expect(await found()).toEqual(['the certificate of localhost does not hold: DEPTH_ZERO_SELF_SIGNED_CERT'])
  setDefaultCACertificates([...known, database.ca])
  expect(await found()).toEqual([expect.stringMatching(/^the certificate of localhost ends in [12] days$/)])

  setDefaultCACertificates(known)
  server.close()
})

test('a database without TLS is refused by all but "prefer" and "disable"', async () => {
  const { ca, url } = database
  await database.serve('no TLS')

  expect(await connectAs(url('sslmode=prefer'))).toBe('without')
  expect(await connectAs(url('sslmode=disable'))).toBe('without')
  const speaksNone = 'the database speaks no TLS, and sslmode demands it'
  expect(await connectAs(url('sslmode=require'))).toBe(speaksNone)
  expect(await connectAs(url('sslmode=verify-full'), ca)).toBe(speaksNone)
  expect(await diagnosed('sslmode=disable')).toEqual([
    'the database does not speak TLS',
    'the database takes connections without TLS',
  ])
})
