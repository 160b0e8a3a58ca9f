/** npm run users:import as people run it, with a file and a project, which here is a small server with real state. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { accountId } from '../../scripts/import/account-id.ts'
import { root } from '../../stack/config.ts'
import { type AdminApi, secretKey, startAdminApi } from '../support/admin-api.ts'
import { runScript } from '../support/run-script.ts'

// The pauses between tries are a hundredth of what they are; how long those are is tested in import-rows.test.ts.
vi.mock('../../scripts/import/retrying-fetch.ts', async (original) => {
  const { retryingFetch } = await original<typeof import('../../scripts/import/retrying-fetch.ts')>()
  return {
    retryingFetch: (...[fetchOnce, { sleep, random }]: Parameters<typeof retryingFetch>) =>
      retryingFetch(fetchOnce, { sleep: (ms) => sleep(ms / 100), random }),
  }
})

const bcrypt = `$2b$10$${'a'.repeat(53)}`
const row = (n: number, more: object = {}) => ({
  email: `u${n}@example.com`,
  password_hash: bcrypt,
  email_confirmed: true,
  ...more,
})

let api: AdminApi
let folder: string
beforeEach(async () => {
  api = await startAdminApi()
  folder = mkdtempSync(join(tmpdir(), 'palisade-import-'))
})
afterEach(async () => {
  await api.stop()
  rmSync(folder, { recursive: true, force: true })
})

const file = (name = 'users.ndjson') => join(folder, name)
const writeRows = (rows: object[]) => writeFileSync(file(), rows.map((each) => `${JSON.stringify(each)}\n`).join(''))
const report = () =>
  readFileSync(`${file()}.report.ndjson`, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))

function start(args: string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, ['scripts/users-import.ts', ...args], {
    cwd: root,
    env: { ...process.env, SUPABASE_URL: api.url, SUPABASE_SECRET_KEY: secretKey, ...env },
  })
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  child.stderr.on('data', (chunk) => {
    output += chunk
  })
  const ended = new Promise<{ code: number | null; output: string }>((resolve) =>
    child.once('close', (code) => resolve({ code, output })),
  )
  return { child, ended }
}
const run = (args: string[], env = {}) =>
  runScript('users-import', args, {
    ...process.env,
    SUPABASE_URL: api.url,
    SUPABASE_SECRET_KEY: secretKey,
    ...env,
  })

test.each([
  [[], /Name one FILE/],
  [['a.ndjson', 'b.ndjson'], /Name one FILE/],
  [['no-such-file.ndjson'], /is not there/],
  [['package.json'], /--format/],
  [['package.json', '--format', 'xml'], /--format/],
  [['x.csv', '--concurrency', '0'], /--concurrency/],
  [['x.csv', '--colour'], /^palisade: Unknown option '--colour'\. See --help\.\n$/],
  [['x.csv', '--firebase-signer-key', '@no-such-key'], /^palisade: ENOENT: .*'no-such-key'\n$/],
  [['x.csv', '--firebase-rounds', '8'], /all of/],
])('%j exits with 2 and says what is wrong', async (args, message) => {
  const { code, output } = await run(args)

  expect(output).toMatch(message)
  expect(code).toBe(2)
})

test('a key that the project does not know exits with 2', async () => {
  writeRows([row(1)])

  const { code, output } = await run([file()], { SUPABASE_SECRET_KEY: 'sb_secret_wrong' })

  expect([code, api.users.size]).toEqual([2, 0])
  expect(output).toMatch(/Invalid API key/)
})

test('a dry run reports what would happen and writes nothing', async () => {
  writeRows([
    row(1),
    row(1),
    row(2, { password_hash: 'md5' }),
    row(3, { birth_date: `${new Date().getUTCFullYear() - 5}-01-01` }),
    row(4, { plan: 'x' }),
  ])

  const { code, output } = await run([file(), '--dry-run'])

  expect(report().map((line) => line.outcome)).toEqual(['would_create', 'duplicate', 'refused', 'refused', 'refused'])
  expect([code, api.users.size]).toEqual([1, 0])
  expect(api.requests.filter((request) => /^(POST .*admin|PATCH|PUT|DELETE)/.test(request))).toEqual([])
  expect(output).toMatch(/Dry run, nothing was written\. 5 rows: 1 would create, 1 duplicate, 3 refused/)
  expect(existsSync(`${file()}.report.ndjson.state`)).toBe(false)
})

test('a dry run that npm swallowed is a dry run', async () => {
  writeRows([row(1)])

  const { code } = await run([file()], { npm_config_dry_run: 'true' })

  expect([code, api.users.size]).toEqual([0, 0])
})

test('every account is there once, with its hash, its data and its plan', async () => {
  writeRows([row(1, { first_name: 'Ada', birth_date: '1990-01-01', plan: 'premium' }), row(2)])

  const { code } = await run([file()])

  expect(code).toBe(0)
  expect(api.users.get(accountId('u1@example.com'))).toEqual({
    id: accountId('u1@example.com'),
    email: 'u1@example.com',
    password_hash: bcrypt,
    email_confirm: true,
    user_metadata: { first_name: 'Ada', birth_date: '1990-01-01' },
    app_metadata: { registered_by: 'import' },
    plan: 'premium',
  })
  expect(api.users.size).toBe(2)
})

test('duplicates in the file and existing accounts are reported and not touched', async () => {
  const old = {
    id: crypto.randomUUID(),
    email: 'u1@example.com',
    email_confirm: true,
    user_metadata: {},
    app_metadata: {},
  }
  api.users.set(old.id, old)
  const id = crypto.randomUUID()
  writeRows([row(1), row(2), row(2, { email: 'U2@Example.com ' }), row(3, { id }), row(4, { id })])

  const { code } = await run([file()])

  expect(report()).toEqual([
    { row: 1, email: 'u1@example.com', outcome: 'exists', reason: expect.any(String) },
    { row: 2, email: 'u2@example.com', outcome: 'created', reason: '' },
    { row: 3, email: 'u2@example.com', outcome: 'duplicate', reason: 'the same account as row 2' },
    { row: 4, email: 'u3@example.com', outcome: 'created', reason: '' },
    { row: 5, email: 'u4@example.com', outcome: 'duplicate', reason: 'the same account as row 4' },
  ])
  expect([code, api.users.size]).toEqual([1, 3])
  expect(api.users.get(old.id)).toEqual(old)
})

test('who was disabled is made suspended in the same request, and the report and the dry run say so', async () => {
  writeRows([
    row(1),
    row(2, { disabled: true }),
    row(3, { banned_until: '2999-01-01T00:00:00Z' }),
    row(4, { blocked: 'maybe' }),
  ])

  const dry = await run([file(), '--dry-run'])
  const dryReport = report()
  const { code, output } = await run([file()])

  expect(api.users.get(accountId('u1@example.com'))?.app_metadata).toEqual({ registered_by: 'import' })
  expect(api.users.get(accountId('u2@example.com'))?.app_metadata).toEqual({
    registered_by: 'import',
    suspended: 'disabled is true in the old system',
  })
  expect(report()).toEqual([
    { row: 1, email: 'u1@example.com', outcome: 'created', reason: '' },
    { row: 2, email: 'u2@example.com', outcome: 'created', reason: 'suspended: disabled is true in the old system' },
    {
      row: 3,
      email: 'u3@example.com',
      outcome: 'created',
      reason: expect.stringContaining('suspended: banned_until is 2999'),
    },
    { row: 4, email: 'u4@example.com', outcome: 'refused', reason: expect.stringMatching(/^blocked: /) },
  ])
  const would = report().map((line) => (line.outcome === 'created' ? { ...line, outcome: 'would_create' } : line))
  expect(dryReport).toEqual(would)
  expect(dry.output).toMatch(/4 rows: 3 would create \(2 suspended\), 1 refused/)
  expect([code, output]).toEqual([1, expect.stringMatching(/4 rows: 3 created \(2 suspended\), 1 refused/)])
})

test('what is not taken is counted, by row when asked, and a dry run says the same', async () => {
  const mfaInfo = [{ mfaEnrollmentId: 'x', phoneInfo: '+15550100' }]
  writeRows([
    row(1, { mfaInfo, phoneNumber: '+15550100' }),
    row(2, { mfaInfo }),
    row(3),
    row(3, { mfaInfo }),
    row(5, { plan: 'x', mfaInfo }),
  ])
  const counts = [
    { row: null, email: '', outcome: 'not_taken', reason: 'second factors (mfaInfo): 2 rows' },
    { row: null, email: '', outcome: 'not_taken', reason: 'phone numbers (phoneNumber): 1 row' },
  ]

  const dry = await run([file(), '--dry-run', '--not-taken'])
  const dryReport = report()
  const real = await run([file()])

  const told = /Not taken:\n {2}second factors \(mfaInfo\): 2 rows\n {2}phone numbers \(phoneNumber\): 1 row\n/
  expect([dry.output, real.output]).toEqual([expect.stringMatching(told), expect.stringMatching(told)])
  expect(report().slice(5)).toEqual(counts)
  expect(dryReport.slice(5)).toEqual(counts)
  expect(dryReport.slice(0, 5).map((line) => line.not_taken)).toEqual([
    'second factors (mfaInfo), phone numbers (phoneNumber)',
    'second factors (mfaInfo)',
    '',
    '',
    '',
  ])
  expect(report()[0]).not.toHaveProperty('not_taken')
})

test('a second run finds everything and changes nothing', async () => {
  writeRows([row(1), row(2)])
  await run([file()])

  const { code } = await run([file()])

  expect(report().map((line) => line.outcome)).toEqual(['already_imported', 'already_imported'])
  expect([code, api.users.size]).toEqual([0, 2])
})

test('busy, ill and lost answers lose nobody and double nobody', async () => {
  const faults = [{ status: 429 }, 'lost', { status: 503 }, 'lost'] as const
  api.fault = (n) => faults[n % 6]
  writeRows(Array.from({ length: 12 }, (_, n) => row(n)))

  const { code } = await run([file()])

  expect([code, api.users.size]).toEqual([0, 12])
})

test('a project that only fails stops the import early, and the report says why', async () => {
  api.fault = () => ({ status: 500 })
  writeRows(Array.from({ length: 60 }, (_, n) => row(n)))

  const { code, output } = await run([file(), '--concurrency', '16'])

  expect(code).toBe(2)
  // The twentieth stops it; the fifteen others that are under way at that moment may fail, too.
  expect(output).toMatch(/\b(2\d|3[0-5]) rows in a row failed/)
  expect(report().length).toBeLessThan(60)
})

test('killed half-way and run again, every account is there exactly once', async () => {
  const half = 150
  writeRows(Array.from({ length: 2 * half }, (_, n) => row(n)))
  const first = start([file()])
  api.onCreated = () => {
    if (api.users.size === half) first.child.kill('SIGKILL')
  }
  await first.ended
  expect(api.users.size).toBeGreaterThanOrEqual(half)
  expect(api.users.size).toBeLessThan(2 * half)
  api.requests.length = 0

  const { code, output } = await run([file()])

  expect([code, api.users.size]).toEqual([0, 2 * half])
  expect(output).toMatch(/Going on after an interruption/)
  // What was done is not asked for again, but for the few that were under way.
  expect(api.requests.filter((request) => request.startsWith('POST /auth')).length).toBeLessThanOrEqual(half + 16)
  expect(report()).toHaveLength(2 * half)
  expect(new Set(report().map((line) => line.outcome))).not.toContain('failed')
  expect(existsSync(`${file()}.report.ndjson.state`)).toBe(false)
})

test('a row that was changed after the interruption is not taken for done', async () => {
  writeRows([row(1), row(2)])
  writeFileSync(`${file()}.report.ndjson.state`, `${JSON.stringify({ target: api.url })}\n1 ${'0'.repeat(32)}\n2 torn`)

  const { code } = await run([file()])

  expect([code, api.users.size]).toEqual([0, 2])
})

test("another project's interrupted import is not gone on with", async () => {
  writeRows([row(1)])
  writeFileSync(`${file()}.report.ndjson.state`, `${JSON.stringify({ target: 'https://other.example.com' })}\n`)

  const { code, output } = await run([file()])

  expect([code, api.users.size]).toEqual([2, 0])
  expect(output).toMatch(/another project/)
})

test('CSV in, CSV out, with Firebase hashes', async () => {
  writeFileSync(
    file('users.csv'),
    'email,password_hash,password_salt,first_name\nf@b.co,aGFzaA==,c2FsdA==,"Ada, B"\n,aGFzaA==,c2FsdA==,X\n',
  )
  writeFileSync(file('key'), 'c2lnbmVy\n')
  const firebase = ['--firebase-signer-key', `@${file('key')}`, '--firebase-salt-separator', 'Bw==']

  const { code } = await run([
    file('users.csv'),
    ...[...firebase, '--firebase-rounds', '8', '--firebase-mem-cost', '14'],
    ...['--report', file('report.csv')],
  ])

  const [user] = [...api.users.values()]
  expect(user?.password_hash).toBe('$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=c2lnbmVy$c2FsdA==$aGFzaA==')
  expect(user?.user_metadata).toEqual({ first_name: 'Ada, B' })
  expect(readFileSync(file('report.csv'), 'utf8')).toMatch(
    /^row,email,outcome,reason\n"1","f@b.co","created",""\n"2","","refused","email/,
  )
  expect(code).toBe(1)
})

test('no hash and no password is ever printed or reported', async () => {
  writeRows([row(1), row(2, { password_hash: 'md5-of-something' }), row(3, { password: 'Plain1text' }), row(1)])
  api.fault = (n) => (n > 1 ? { status: 500 } : undefined)

  const { output } = await run([file()])

  const written = output + readFileSync(`${file()}.report.ndjson`, 'utf8')
  for (const secret of [bcrypt, 'md5-of-something', 'Plain1text', secretKey]) expect(written).not.toContain(secret)
})

test('--help tells the options and does nothing', async () => {
  const { code, output } = await run(['--help'])

  expect(code).toBe(0)
  expect(output).toMatch(/--dry-run/)
  expect(api.requests).toEqual([])
})
