/** The parts of an import that need no project: hashes, rows, ids, reports, patience. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { accountId } from '../../scripts/import/account-id.ts'
import { checkRow, isUnderAge, takenNames } from '../../scripts/import/check-row.ts'
import { countNotTaken, notTaken } from '../../scripts/import/not-taken.ts'
import { oldState } from '../../scripts/import/old-state.ts'
import { firebaseHash, isPasswordHash, readFirebaseParameters } from '../../scripts/import/password-hash.ts'
import { readRows } from '../../scripts/import/read-rows.ts'
import { writeReport } from '../../scripts/import/report.ts'
import { retryingFetch } from '../../scripts/import/retrying-fetch.ts'

const folder = mkdtempSync(join(tmpdir(), 'palisade-import-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const bcrypt = `$2b$10$${'a'.repeat(53)}`
const firebase = { signerKey: 'c2lnbmVy', saltSeparator: 'Bw==', rounds: 8, memCost: 14 }
const refusalOf = (fields: unknown) => {
  const checked = checkRow(fields, undefined)
  return 'refused' in checked ? checked.refused : ''
}
const accountOf = (fields: unknown) => {
  const checked = checkRow(fields, firebase)
  if ('refused' in checked) throw new Error(checked.refused)
  return checked
}

describe('password hashes', () => {
  test.each([
    'secret',
    '$2b$10$short',
    `$2x$10$${'a'.repeat(53)}`,
    `$2b$03$${'a'.repeat(53)}`,
    `$2b$10$${'a'.repeat(54)}`,
    '$argon2d$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA',
    '$argon2id$v=16$m=65536,t=3,p=4$c2FsdA$aGFzaA',
    '$argon2id$v=19$m=0,t=3,p=4$c2FsdA$aGFzaA',
    '$fbscrypt$v=2,n=14,r=8,p=1,ss=Bw==,sk=c2k=$c2FsdA==$aGFzaA==',
    '$fbscrypt$v=1,n=14,r=8,p=1$c2FsdA==$aGFzaA==',
    '5f4dcc3b5aa765d61d8327deb882cf99',
    '$6$salt$hash',
  ])('%s is none that the Auth service takes', (hash) => {
    expect(isPasswordHash(hash)).toBe(false)
    expect(refusalOf({ email: 'a@b.co', password_hash: hash })).toMatch(/^password_hash: /)
    expect(refusalOf({ email: 'a@b.co', password_hash: hash })).not.toContain(hash)
  })

  test.each([
    bcrypt,
    bcrypt.replace('2b', '2a'),
    bcrypt.replace('2b', '2y'),
    '$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA',
    '$argon2i$v=19$m=4096,t=3,p=1$c2FsdA$aGFzaA',
    '$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=c2lnbmVy$c2FsdA==$aGFzaA==',
  ])('%s is passed on as it is', (hash) => {
    expect(accountOf({ email: 'a@b.co', password_hash: hash }).passwordHash).toBe(hash)
  })

  test("Firebase's URL-safe, unpadded parts become the one string that the Auth service reads", () => {
    const hash = firebaseHash({ ...firebase, saltSeparator: 'Bw' }, 'ab-_', 'c_-')

    expect(hash).toBe('$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=c2lnbmVy$ab+/$c/+=')
    expect(isPasswordHash(hash)).toBe(true)
  })

  test('a salted hash without the parameters is refused, and so are half the parameters', () => {
    expect(refusalOf({ email: 'a@b.co', password_hash: 'aGFzaA==', password_salt: 'c2FsdA==' })).toMatch(/--firebase/)
    expect(() => readFirebaseParameters({ ...firebase, rounds: '8', memCost: undefined })).toThrow(/all of/)
    expect(() => readFirebaseParameters({ ...firebase, rounds: 'x', memCost: '14' })).toThrow(/all of/)
  })
})

describe('rows', () => {
  test.each<[unknown, string]>([
    [{}, 'email'],
    [{ email: 'nobody' }, 'email'],
    [{ email: 'a@b.co', password: 'Plain1text' }, 'password'],
    [{ email: 'a@b.co', id: '7' }, 'id'],
    [{ email: 'a@b.co', birth_date: '2001-02-29' }, 'birth_date'],
    [{ email: 'a@b.co', birth_date: '1850-01-01' }, 'birth_date'],
    [{ email: 'a@b.co', birth_date: '2999-01-01' }, 'birth_date'],
    [{ email: 'a@b.co', time_zone: 'Mars/Olympus' }, 'time_zone'],
    [{ email: 'a@b.co', locale: 'x' }, 'locale'],
    [{ email: 'a@b.co', email_confirmed: 'perhaps' }, 'email_confirmed'],
    [{ email: 'a@b.co', first_name: 'n'.repeat(81) }, 'first_name'],
    [{ email: 'a@b.co', created_at: 'long ago' }, 'created_at'],
    [['a@b.co'], 'row'],
    ['a@b.co', 'row'],
    [null, 'row'],
  ])('%j is refused because of %s', (fields, what) => {
    expect(refusalOf(fields)).toMatch(new RegExp(`^${what}: `))
  })

  test('a refusal never repeats a password', () => {
    expect(refusalOf({ email: 'a@b.co', password: 'Plain1text' })).not.toContain('Plain1text')
  })

  test('a full row becomes what the admin API takes', () => {
    const account = accountOf({
      email: ' Ada@Example.COM ',
      email_confirmed: 'yes',
      id: '7C0B4FE4-9B2C-4F0E-8D8C-111111111111',
      first_name: 'Ada',
      birth_date: '1990-12-10',
      locale: 'de-CH',
      time_zone: 'Europe/Zurich',
      created_at: '2020-02-02T10:00:00+02:00',
      plan: 'premium',
    })

    expect(account).toEqual({
      id: '7c0b4fe4-9b2c-4f0e-8d8c-111111111111',
      email: 'ada@example.com',
      passwordHash: undefined,
      emailConfirmed: true,
      birthDate: '1990-12-10',
      plan: 'premium',
      userMetadata: { first_name: 'Ada', birth_date: '1990-12-10', locale: 'de-CH', time_zone: 'Europe/Zurich' },
      appMetadata: { registered_by: 'import', original_created_at: '2020-02-02T08:00:00.000Z' },
    })
  })

  test.each([
    ['europe/zurich', 'Europe/Zurich'],
    [' AMERICA/NEW_YORK ', 'America/New_York'],
    ['utc', 'UTC'],
  ])('the time zone %j is %s', (zone, name) => {
    expect(accountOf({ email: 'a@b.co', time_zone: zone }).userMetadata.time_zone).toBe(name)
  })

  test.each(['Japan', 'Asia/Calcutta', 'asia/kolkata', 'US/Pacific', 'GMT'])(
    'the alias %s is a time zone, too',
    (zone) => {
      expect(accountOf({ email: 'a@b.co', time_zone: zone }).userMetadata.time_zone?.toLowerCase()).toBe(
        zone.toLowerCase(),
      )
    },
  )

  test.each(['+02:00', 'Mars', '', 'UTC+2'])('%j is no time zone', (zone) => {
    expect(refusalOf({ email: 'a@b.co', time_zone: zone })).toMatch(/^time_zone: /)
  })

  test('a row of a Firebase export is understood', () => {
    const account = accountOf({
      localId: 'fb1',
      email: 'f@b.co',
      emailVerified: true,
      passwordHash: 'aGFzaA==',
      salt: 'c2FsdA==',
      displayName: 'F',
      createdAt: '1580637600000',
    })

    expect(account).toMatchObject({
      emailConfirmed: true,
      passwordHash: '$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=c2lnbmVy$c2FsdA==$aGFzaA==',
      userMetadata: { display_name: 'F' },
      appMetadata: { original_id: 'fb1', original_created_at: '2020-02-02T10:00:00.000Z' },
    })
  })

  test.each<[string, Record<string, unknown>]>([
    ['Firebase', { disabled: true }],
    ['Firebase as CSV', { disabled: 'true' }],
    ['Auth0', { blocked: true }],
    ['Clerk', { banned: true, locked: false }],
    ['Clerk after too many failures', { banned: false, locked: true }],
    ['Supabase', { banned_until: '2999-01-01 00:00:00+00' }],
    ['Supabase, for ever', { banned_until: 'infinity' }],
    ['a system of Unix seconds', { banned_until: 32_472_144_000 }],
    ['a system of Unix seconds as CSV', { banned_until: '32472144000' }],
    ['a system of milliseconds', { locked_until: 32_472_144_000_000 }],
    ['Rails', { locked_until: '2999-01-01 00:00:00 UTC' }],
    ['Cognito', { Enabled: false, UserStatus: 'CONFIRMED' }],
    ['Cognito, archived', { Enabled: 'true', UserStatus: 'ARCHIVED' }],
    ['Cognito, compromised', { UserStatus: 'COMPROMISED' }],
    ['Okta', { status: 'SUSPENDED' }],
    ['Okta, locked out', { status: 'LOCKED_OUT' }],
    ['Keycloak', { enabled: false }],
    ['Entra', { accountEnabled: 'false' }],
    ['Django', { is_active: 0 }],
    ['a table of its own', { suspended: 'yes' }],
  ])('who was shut out at %s arrives suspended', (_system, fields) => {
    const account = accountOf({ email: 'a@b.co', ...fields })

    expect(account.suspended).toMatch(/^\w+ is \S+.* in the old system$/)
    expect(account.appMetadata.suspended).toBe(account.suspended)
  })

  test.each<[string, Record<string, unknown>]>([
    ['Firebase', { disabled: false }],
    ['Auth0', { blocked: null }],
    ['Clerk', { banned: 'false', locked: '0' }],
    ['Supabase, whose ban is over', { banned_until: '2020-01-01 00:00:00.5+00', deleted_at: null }],
    ['a system of Unix seconds, whose ban is over', { banned_until: 1_577_836_800 }],
    ['a system of milliseconds, whose ban is over', { banned_until: '1577836800000' }],
    ['a system that has a 0 for none', { banned_until: 0 }],
    ['Cognito', { Enabled: true, UserStatus: 'FORCE_CHANGE_PASSWORD' }],
    ['Okta', { status: 'PASSWORD_EXPIRED' }],
    ['Django', { is_active: 1 }],
    ['a system that does not say', {}],
  ])('who was let in at %s is let in here', (_system, fields) => {
    const account = accountOf({ email: 'a@b.co', ...fields })

    expect([account.suspended, 'suspended' in account.appMetadata]).toEqual([undefined, false])
  })

  test.each<[string, Record<string, unknown>]>([
    ['disabled', { disabled: 'perhaps' }],
    ['is_active', { is_active: 2 }],
    ['status', { status: 'frozen' }],
    ['banned_until', { banned_until: 'tomorrow' }],
    ['banned_until', { banned_until: 'moderator 7' }],
    ['banned_until', { banned_until: '01/02/2030' }],
    ['banned_until', { banned_until: 1 }],
    ['banned_until', { banned_until: 1_893_456_000_000_000 }],
    ['banned_until', { banned_until: true }],
    ['deleted_at', { deleted_at: '2024-01-01T00:00:00Z' }],
    ['status', { status: 'DELETED' }],
  ])('a row whose %s is %j makes nobody', (field, fields) => {
    expect(refusalOf({ email: 'a@b.co', ...fields })).toMatch(new RegExp(`^${field}: `))
  })

  test('a ban is over at the same moment wherever the import runs', () => {
    const zone = process.env.TZ
    const states = ['America/Los_Angeles', 'Pacific/Auckland'].map((place) => {
      process.env.TZ = place
      return ['2030-01-01 00:00:01', '2029-12-31T23:59:59', '2029-12-31T16:00:01-0800'].map((banned_until) => {
        const state = oldState({ banned_until }, new Date('2030-01-01T00:00:00Z'))
        return 'suspended' in state && state.suspended !== undefined
      })
    })
    if (zone === undefined) delete process.env.TZ
    else process.env.TZ = zone

    expect(states).toEqual([
      [true, false, true],
      [true, false, true],
    ])
  })

  test.each(['1580637600', 1_580_637_600, 1_580_637_600_000])('%j is a day of 2020', (created_at) => {
    const { appMetadata } = accountOf({ email: 'a@b.co', created_at })

    expect(appMetadata.original_created_at).toBe('2020-02-02T10:00:00.000Z')
  })

  test('the id follows from the address, as a UUID version 5', () => {
    expect(accountId('a@b.co')).toBe(accountId('a@b.co'))
    expect(accountId('a@b.co')).not.toBe(accountId('b@b.co'))
    expect(accountId('a@b.co')).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    expect(accountOf({ email: 'A@B.co' }).id).toBe(accountId('a@b.co'))
  })

  test.each([
    ['2013-06-15', '2026-06-15', false],
    ['2013-06-16', '2026-06-15', true],
    ['2012-02-29', '2025-02-28', true],
    ['2012-02-29', '2025-03-01', false],
    ['2012-02-29', '2028-02-29', false],
    ['2015-02-28', '2028-02-29', false],
    ['2015-03-01', '2028-02-29', true],
  ])('born %s is on %s under 13: %j', (birthDate, today, expected) => {
    expect(isUnderAge(birthDate, 13, new Date(today))).toBe(expected)
  })
})

describe('what is not taken', () => {
  const leftOf = (fields: unknown) => notTaken(fields, takenNames)

  test('of a row that has everything: second factors, phones, other sign-ins, claims, pictures, and by their names the rest', () => {
    const left = leftOf({
      ...{
        localId: 'x',
        email: 'a@b.co',
        passwordHash: 'x',
        salt: 'x',
        disabled: true,
        displayName: 'A',
        createdAt: '1580637600000',
      },
      mfaInfo: [{ mfaEnrollmentId: 'x', phoneInfo: '+1' }],
      phoneNumber: '+15550100',
      providerUserInfo: [{ providerId: 'password' }, { providerId: 'google.com' }],
      customAttributes: '{"admin":true}',
      photoUrl: 'https://example.com/a.png',
      lastSignedInAt: '1580637600000',
    })

    expect(left).toEqual([
      'second factors (mfaInfo)',
      'phone numbers (phoneNumber)',
      'sign-ins with other providers (providerUserInfo)',
      'claims and metadata (customAttributes)',
      'pictures (photoUrl)',
      'lastSignedInAt',
    ])
  })

  test.each<[string, string]>([
    ['totp_secret', 'second factors'],
    ['two_factor_enabled', 'second factors'],
    ['multifactor', 'second factors'],
    ['backup_codes', 'second factors'],
    ['UserMFASettingList', 'second factors'],
    ['phone_number', 'phone numbers'],
    ['identities', 'sign-ins with other providers'],
    ['external_accounts', 'sign-ins with other providers'],
    ['raw_app_meta_data', 'claims and metadata'],
    ['app_metadata', 'claims and metadata'],
  ])('%s is among the %s', (field, kind) => {
    expect(leftOf({ [field]: ['x'] })).toEqual([`${kind} (${field})`])
  })

  test.each<unknown>([
    {
      mfaInfo: [],
      phoneNumber: '',
      identities: [{ provider: 'email', id: 1 }],
      customAttributes: '{}',
      totp_enabled: false,
    },
    { providerUserInfo: [{ providerId: 'password', federatedId: 'a@b.co' }], app_metadata: {}, photoUrl: null },
    { email: 'a@b.co', locale: 'de', banned: true, Enabled: true },
    { provider: 'email', providers: ['password'], totp_enabled: 0 },
    ['a'],
    null,
  ])('%j leaves nothing behind', (fields) => {
    expect(leftOf(fields)).toEqual([])
  })

  test('is counted by row, and a file whose keys are data has a limit', () => {
    const counts = new Map<string, number>()
    for (let n = 0; n < 1000; n += 1) countNotTaken(counts, ['lastSignedInAt', `key ${n}`])

    expect(counts.get('lastSignedInAt')).toBe(1000)
    expect([counts.size, counts.get('other fields')]).toEqual([101, 901])
  })
})

describe('files', () => {
  const rowsOf = async (text: string, format: 'ndjson' | 'csv') => {
    const file = join(folder, crypto.randomUUID())
    writeFileSync(file, text)
    return Array.fromAsync(readRows(file, format).rows)
  }

  test('NDJSON: a broken line is a row of its own, blank lines and a byte order mark are nothing', async () => {
    const rows = await rowsOf('\uFEFF{"email":"a@b.co"}\r\n\n{"email":\n{"email":"c@b.co"}', 'ndjson')

    expect(rows).toMatchObject([
      { number: 1, fields: { email: 'a@b.co' } },
      { number: 3, unreadable: 'the line is not JSON' },
      { number: 4, fields: { email: 'c@b.co' } },
    ])
  })

  test('CSV: quotes, line breaks in cells, empty cells, and a row of another length', async () => {
    const rows = await rowsOf('email,first_name,plan\n"a@b.co","A ""B""\nC",\nb@b.co,B\nc@b.co,,free\n', 'csv')

    expect(rows).toMatchObject([
      { number: 1, fields: { email: 'a@b.co', first_name: 'A "B"\nC' } },
      { number: 2, unreadable: expect.stringContaining('cells') },
      { number: 3, fields: { email: 'c@b.co', plan: 'free' } },
    ])
  })

  test('CSV that cannot be read further stops with the place', async () => {
    await expect(rowsOf('email\na@b.co\n"b@b.co\n', 'csv')).rejects.toThrow(/after row 1 .*CSV_/)
  })

  test('the report is in the order of the file, and a cell is never a formula', () => {
    const file = join(folder, 'report.csv')
    const digest = ''

    writeReport(file, [
      { row: 2, digest, email: '=cmd()@b.co', outcome: 'refused', reason: 'a "reason", long' },
      { row: 1, digest, email: 'a@b.co', outcome: 'created', reason: '' },
    ])

    expect(readFileSync(file, 'utf8')).toBe(
      'row,email,outcome,reason\n"1","a@b.co","created",""\n"2","\'=cmd()@b.co","refused","a ""reason"", long"\n',
    )
  })
})

describe('patience', () => {
  const patient = (answers: (Response | Error)[]) => {
    const waits: number[] = []
    const fetchOnce = async () => {
      const answer = answers.shift()
      if (answer instanceof Response) return answer
      throw answer ?? new Error('asked too often')
    }
    const sleep = async (ms: number) => void waits.push(ms)
    return { ask: () => retryingFetch(fetchOnce, { sleep, random: () => 0.5 })('http://x'), waits }
  }
  const status = (code: number, headers = {}) => new Response('{}', { status: code, headers })

  test('busy and lost answers are asked for again, ever more slowly', async () => {
    const { ask, waits } = patient([status(429), new Error('reset'), status(503), status(200)])

    expect((await ask()).status).toBe(200)
    expect(waits).toEqual([250, 500, 1000])
  })

  test('Retry-After is kept, up to half a minute', async () => {
    const { ask, waits } = patient([
      status(429, { 'retry-after': '2' }),
      status(429, { 'retry-after': '3600' }),
      status(200),
    ])

    await ask()

    expect(waits).toEqual([2000, 30_000])
  })

  test('a refusal is an answer, a 500 is asked twice more, and nothing is asked for ever', async () => {
    expect((await patient([status(422)]).ask()).status).toBe(422)
    expect((await patient([status(500), status(500), status(500)]).ask()).status).toBe(500)
    expect((await patient(Array.from({ length: 6 }, () => status(503))).ask()).status).toBe(503)
    await expect(patient(Array.from({ length: 6 }, () => new Error('down'))).ask()).rejects.toThrow('down')
  })
})
