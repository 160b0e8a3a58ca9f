import postgres from 'postgres'
import { afterAll, describe, expect, test } from 'vitest'
import { target } from '../target.ts'

// What hosted Supabase answers to role postgres and to the Data API roles, and what our stand-ins must answer too.
type Sql = postgres.Sql | postgres.TransactionSql
const sql = postgres(target().dbUrl, { max: 1, onnotice: (notice) => notices.push(notice.code ?? '') })
const notices: string[] = []
const undo = new Error('roll back')
afterAll(() => sql.end())

const [comment] = await sql`select comment ~ '^Palisade' as ours from pg_available_extensions where name = 'pgsodium'`
const ours: boolean = comment?.ours ?? false
/** PostgreSQL 15 comes with pg_cron 1.4, and lets CREATEROLE grant every role. */
const [server] = await sql`select current_setting('server_version_num')::integer < 160000 as is_15`
const is15: boolean = server?.is_15 ?? false

/** Runs work in a transaction that has the four extensions and is rolled back. */
async function inTransaction(work: (tx: Sql) => Promise<void>) {
  const attempt = sql.begin(async (tx) => {
    await tx.unsafe(
      ['pgsodium', 'supabase_vault', 'pg_cron', 'pg_net']
        .map((name) => `create extension if not exists ${name};`)
        .join(''),
    )
    await work(tx)
    throw undo
  })
  await attempt.catch((error) => {
    if (error !== undo) throw error
  })
}

/** The first column of the last statement's first row as text, or `code message` of the refusal. */
async function answer(tx: Sql, statement: string): Promise<string> {
  await tx.unsafe('savepoint answer')
  try {
    // One result for one statement, a list of results for several.
    const results: unknown[] = await tx.unsafe(statement)
    const last: unknown[] = Array.isArray(results.at(-1)) ? [results.at(-1)].flat() : results
    return String(Object.values(last[0] ?? {})[0] ?? '')
  } catch (error) {
    await tx.unsafe('rollback to savepoint answer')
    if (error instanceof postgres.PostgresError) return `${error.code} ${error.message}`
    throw error
  }
}

const as = (role: string, statement: string) => `set local role ${role}; ${statement}`
const newKey = (tx: Sql, type = 'aead-det') => answer(tx, `select id from pgsodium.create_key('${type}')`)
const bytes = (text: string | null) => (text === null ? 'null::bytea' : `convert_to('${text}', 'utf8')`)
const nonce = (fill: string) => `decode(repeat('${fill}', 16), 'hex')`

const seal = (tx: Sql, key: string, message: string, aad: string | null = 'a', with_nonce = 'null::bytea') =>
  answer(
    tx,
    `select encode(pgsodium.crypto_aead_det_encrypt(${bytes(message)}, ${bytes(aad)}, '${key}'::uuid, ${with_nonce}), 'hex')`,
  )
const open = (tx: Sql, key: string, hex: string, aad: string | null = 'a', with_nonce = 'null::bytea') =>
  answer(
    tx,
    `select convert_from(pgsodium.crypto_aead_det_decrypt('\\x${hex}'::bytea, ${bytes(aad)}, '${key}'::uuid, ${with_nonce}), 'utf8')`,
  )

const det = 'pgsodium.crypto_aead_det_encrypt'
const fn = (name: string) => `42501 permission denied for function ${name}`
const invalid = '22000 pgsodium_crypto_aead_det_decrypt_by_id: invalid'

type Rows = [statement: string, answer: string][]
const cases = (rows: Rows) =>
  test.each(rows)('%s', (statement, expected) =>
    inTransaction(async (tx) => expect(await answer(tx, statement)).toBe(expected)),
  )

describe('pgsodium answers role postgres as hosted Supabase does', () => {
  cases([
    ["select extversion from pg_extension where extname = 'pgsodium'", '3.1.8'],
    [
      'drop extension pgsodium; create extension pgsodium with schema extensions',
      '0A000 extension "pgsodium" must be installed in schema "pgsodium"',
    ],
    ['drop extension pgsodium cascade', ''],
    ['drop extension pgsodium; drop schema if exists pgsodium', '42501 must be owner of schema pgsodium'],
    ["select rolname from pg_roles where rolname like 'pgsodium%' and pg_has_role('postgres', oid, 'member')", ''],
    ['select count(*) >= 0 from pgsodium.valid_key', 'true'],
    ['select count(*) >= 0 from pgsodium.key', 'true'],
    ["select (pgsodium.create_key(name := 'test k1')).id is not null", 'true'],
    [
      "select pgsodium.create_key(name := 'test d'); select pgsodium.create_key(name := 'test d')",
      '23505 duplicate key value violates unique constraint "pgsodium_key_unique_name"',
    ],
    [`select ${det}('m'::bytea, 'a'::bytea, gen_random_uuid())`, fn('crypto_aead_det_encrypt')],
    [`select ${det}('m'::bytea, 'a'::bytea, gen_random_uuid(), null::bytea)`, 'P0002 query returned no rows'],
    [
      "select pgsodium.crypto_aead_det_decrypt('m'::bytea, 'a'::bytea, gen_random_uuid(), null::bytea)",
      'P0002 query returned no rows',
    ],
    [`select ${det}('m'::bytea, 'a'::bytea, decode(repeat('00', 32), 'hex'))`, fn('crypto_aead_det_encrypt')],
    [`select ${det}('m'::bytea, 'a'::bytea, 1::bigint)`, fn('crypto_aead_det_encrypt')],
    [
      "select pgsodium.crypto_aead_ietf_encrypt('m'::bytea, 'a'::bytea, decode(repeat('00', 12), 'hex'), gen_random_uuid())",
      fn('crypto_aead_ietf_encrypt'),
    ],
    ['select pgsodium.crypto_secretbox_noncegen()', fn('crypto_secretbox_noncegen')],
    [
      "select pgsodium.crypto_secretbox('m'::bytea, decode(repeat('00', 24), 'hex'), decode(repeat('00', 32), 'hex'))",
      fn('crypto_secretbox'),
    ],
    ['select pgsodium.randombytes_buf(8)', fn('randombytes_buf')],
    ["select pgsodium.crypto_generichash('m'::bytea)", fn('crypto_generichash')],
    ['select pgsodium.derive_key(1)', fn('derive_key')],
    [
      "select pgsodium.crypto_auth_hmacsha256('m'::bytea, decode(repeat('00', 32), 'hex'))",
      fn('crypto_auth_hmacsha256'),
    ],
    ['grant pgsodium_keymaker to postgres', is15 ? '' : '42501 permission denied to grant role "pgsodium_keymaker"'],
    [
      'grant pgsodium_keymaker to service_role',
      is15 ? '' : '42501 permission denied to grant role "pgsodium_keymaker"',
    ],
    ['alter table pgsodium.key add column x int', '42501 must be owner of table key'],
    ["update pgsodium.key set status = 'expired'", '42501 permission denied for table key'],
    ['delete from pgsodium.key', '42501 permission denied for table key'],
    ['select count(raw_key) >= 0 from pgsodium.decrypted_key', 'true'],
    ['select length(pgsodium.crypto_aead_det_noncegen())', '16'],
    ['select length(pgsodium.crypto_aead_det_keygen())', '32'],
    [as('anon', "select (pgsodium.create_key(name := 'test anon')).name"), 'test anon'],
    [
      as('anon', `select ${det}('m'::bytea, 'a'::bytea, gen_random_uuid(), null::bytea)`),
      fn('crypto_aead_det_encrypt'),
    ],
    [as('anon', 'select pgsodium.crypto_aead_det_keygen()'), fn('crypto_aead_det_keygen')],
    [as('authenticated', 'select * from pgsodium.key'), '42501 permission denied for table key'],
    [as('authenticated', 'select * from pgsodium.valid_key'), '42501 permission denied for view valid_key'],
    [as('authenticated', 'select pgsodium.get_key_by_id(gen_random_uuid())'), ''],
    [as('service_role', "select (pgsodium.create_key(name := 'test svc')).name"), 'test svc'],
    [
      as('service_role', `select ${det}('m'::bytea, 'a'::bytea, (pgsodium.create_key()).id, null::bytea)`),
      'P0002 query returned no rows',
    ],
    [
      as('service_role', `select ${det}('m'::bytea, 'a'::bytea, (pgsodium.create_key()).id)`),
      fn('crypto_aead_det_encrypt'),
    ],
    [as('service_role', 'select * from pgsodium.key'), '42501 permission denied for table key'],
  ])

  test.each([
    `grant execute on function ${det}(bytea, bytea, uuid, bytea) to authenticated`,
    'grant execute on function pgsodium.create_key to service_role',
    'grant usage on schema pgsodium to service_role',
  ])('%s: only a warning, 01007', (statement) =>
    inTransaction(async (tx) => {
      notices.length = 0

      await tx.unsafe(statement)

      expect(notices).toContain('01007')
    }),
  )
})

describe('deterministic encryption', () => {
  test.each([
    ['a word', 'hello', 'a', 'null::bytea'],
    ['one byte more than a block', 'x'.repeat(17), 'a', nonce('07')],
    ['no additional data', 'hello', null, nonce('07')],
    ['1 MB', 'x'.repeat(1_048_576), 'a', nonce('07')],
  ] as const)('%s comes back, 32 bytes longer in between', (_, message, aad, with_nonce) =>
    inTransaction(async (tx) => {
      const key = await newKey(tx)

      const sealed = await seal(tx, key, message, aad, with_nonce)

      expect(sealed.length / 2).toBe(message.length + 32)
      expect(await open(tx, key, sealed, aad, with_nonce)).toBe(message)
    }),
  )

  test('nothing is sealed, and does not open', () =>
    inTransaction(async (tx) => {
      const key = await newKey(tx)

      const sealed = await seal(tx, key, '')

      expect(sealed.length / 2).toBe(32)
      expect(await open(tx, key, sealed)).toBe(`${invalid} message`)
    }))

  test('the same input gives the same ciphertext; another nonce, key or additional data does not', () =>
    inTransaction(async (tx) => {
      const key = await newKey(tx)
      const sealed = await seal(tx, key, 'hello', 'a', nonce('01'))

      expect(await seal(tx, key, 'hello', 'a', nonce('01'))).toBe(sealed)
      expect(await seal(tx, key, 'hello', 'a', nonce('02'))).not.toBe(sealed)
      expect(await seal(tx, key, 'hello', 'a')).not.toBe(sealed)
      expect(await seal(tx, key, 'hello', 'b', nonce('01'))).not.toBe(sealed)
      expect(await seal(tx, await newKey(tx), 'hello', 'a', nonce('01'))).not.toBe(sealed)
    }))

  test('whatever is not the sealed input is one and the same invalid ciphertext', () =>
    inTransaction(async (tx) => {
      const key = await newKey(tx)
      const sealed = await seal(tx, key, 'hello', 'ab', nonce('01'))
      const flipped = (at: number) =>
        sealed.slice(0, at) + (Number.parseInt(sealed.charAt(at), 16) ^ 1).toString(16) + sealed.slice(at + 1)

      const answers = [
        await open(tx, key, flipped(0), 'ab', nonce('01')),
        await open(tx, key, flipped(63), 'ab', nonce('01')),
        await open(tx, key, flipped(sealed.length - 1), 'ab', nonce('01')),
        await open(tx, key, sealed.slice(0, -2), 'ab', nonce('01')),
        await open(tx, key, `${sealed}00`, 'ab', nonce('01')),
        await open(tx, key, sealed, 'ba', nonce('01')),
        await open(tx, key, sealed, null, nonce('01')),
        await open(tx, key, sealed, 'ab', nonce('02')),
        await open(tx, key, sealed, 'ab'),
        await open(tx, await newKey(tx), sealed, 'ab', nonce('01')),
      ]

      expect(new Set(answers)).toEqual(new Set([`${invalid} ciphertext`]))
    }))

  test('malformed input is refused by name', () =>
    inTransaction(async (tx) => {
      const key = await newKey(tx)
      const call = (args: string) => answer(tx, `select ${det}(${args})`)

      expect(await open(tx, key, '00'.repeat(31))).toBe(`${invalid} message`)
      expect(await call(`null::bytea, 'a'::bytea, '${key}'::uuid, null::bytea`)).toMatch(
        /^22000 .*message cannot be NULL$/,
      )
      expect(await call(`'m'::bytea, 'a'::bytea, '${key}'::uuid, 'short'::bytea`)).toMatch(/^22000 .*invalid nonce$/)
    }))

  test.each(['aead-ietf', 'secretbox', 'hmacsha256'])('a key of type %s is no key here', (type) =>
    inTransaction(async (tx) => {
      const key = await newKey(tx, type)

      expect(await seal(tx, key, 'hello')).toBe('P0002 query returned no rows')
    }),
  )

  test('an expired key leaves valid_key and still opens what it sealed', () =>
    inTransaction(async (tx) => {
      const key = await answer(
        tx,
        "select pgsodium.create_key(name := 'test old', expires := '2020-01-01'); select id from pgsodium.key where name = 'test old'",
      )

      const sealed = await seal(tx, key, 'hello')

      expect(await answer(tx, `select count(*) from pgsodium.valid_key where id = '${key}'`)).toBe('0')
      expect(await open(tx, key, sealed)).toBe('hello')
    }))

  test('a raw key is stored encrypted under a parent and works', () =>
    inTransaction(async (tx) => {
      const key = await answer(tx, "select id from pgsodium.create_key(raw_key := decode(repeat('ab', 32), 'hex'))")

      const sealed = await seal(tx, key, 'hello')

      expect(await open(tx, key, sealed)).toBe('hello')
      expect(
        await answer(
          tx,
          `select raw_key = decode(repeat('ab', 32), 'hex') or parent_key is null from pgsodium.key where id = '${key}'`,
        ),
      ).toBe('false')
    }))

  test.skipIf(!ours)('the root key and the private functions are out of reach (stand-in only)', () =>
    inTransaction(async (tx) => {
      for (const role of ['postgres', 'service_role', 'authenticated', 'anon']) {
        expect(await answer(tx, as(role, 'select pgsodium._root_key()'))).toBe(fn('_root_key'))
        expect(await answer(tx, as(role, "select pg_read_file('pgsodium_root.key')"))).toBe(fn('pg_read_file'))
        for (const call of ["_derived_keys(0, 'pgsodium')", "_seal_by_id('m', 'a', 1, 'pgsodium', null)"])
          for (const schema of ['pgsodium', 'vault'])
            expect(await answer(tx, as(role, `select ${schema}.${call}`))).toMatch(/^42501 permission denied/)
        expect(await answer(tx, as(role, "select pgsodium._open_by_id('m', 'a', 1, 'pgsodium', null)"))).toBe(
          fn('_open_by_id'),
        )
        await tx.unsafe('reset role')
      }
    }),
  )
})

describe('Vault answers as hosted Supabase does', () => {
  const latest = 'select decrypted_secret from vault.decrypted_secrets where name ='
  cases([
    [`select vault.create_secret('s3kr1t', 'test n1', 'd'); ${latest} 'test n1'`, 's3kr1t'],
    [
      "select vault.create_secret('a', 'test dup'); select vault.create_secret('b', 'test dup')",
      '23505 duplicate key value violates unique constraint "secrets_name_idx"',
    ],
    [
      `select vault.update_secret((select vault.create_secret('a', 'test u1')), 'b', 'test u2'); ${latest} 'test u2'`,
      'b',
    ],
    [`select vault.update_secret((select vault.create_secret('a', 'test u1'))); ${latest} 'test u1'`, 'a'],
    ["select vault.update_secret(gen_random_uuid(), 'b')", ''],
    [`select vault.create_secret('', 'test empty'); ${latest} 'test empty'`, ''],
    [
      "select vault.create_secret(null, 'test n')",
      '23502 null value in column "secret" of relation "secrets" violates not-null constraint',
    ],
    ["insert into vault.secrets (secret) values ('x')", fn('_crypto_aead_det_noncegen')],
    ["update vault.secrets set name = 'z'", '42501 permission denied for table secrets'],
    ['delete from vault.secrets', ''],
    ['grant select on vault.decrypted_secrets to authenticated', ''],
    [
      "select vault._crypto_aead_det_encrypt('x'::bytea, 'a'::bytea, 0::bigint, 'pgsodium'::bytea, null)",
      fn('_crypto_aead_det_encrypt'),
    ],
    [as('service_role', `select vault.create_secret('x', 'test svc'); ${latest} 'test svc'`), 'x'],
    [as('service_role', "update vault.secrets set name = 'z'"), '42501 permission denied for table secrets'],
    [as('authenticated', 'select * from vault.decrypted_secrets'), '42501 permission denied for schema vault'],
    [as('anon', "select vault.create_secret('x')"), '42501 permission denied for schema vault'],
    [
      "select vault.create_secret('x', 'test a'); select vault.create_secret('x', 'test b'); select count(distinct secret) from vault.secrets where name like 'test _'",
      '2',
    ],
    [
      // As bytes: what is encrypted may hold a zero, of which no text can be made.
      "select vault.create_secret('plain', 'test rest'); select position('plain'::bytea in decode(secret, 'base64')) > 0 from vault.secrets where name = 'test rest'",
      'false',
    ],
    ['drop extension supabase_vault', ''],
  ])

  test('a secret is readable through a definer function of ours, and a moved ciphertext is not', () =>
    inTransaction(async (tx) => {
      await tx.unsafe(`create function public.test_secret(n text) returns text language sql security definer set search_path = '' as
        $$ select decrypted_secret from vault.decrypted_secrets where name = n $$;
        grant execute on function public.test_secret to authenticated;
        select vault.create_secret('x', 'test q')`)

      expect(await answer(tx, as('authenticated', "select public.test_secret('test q')"))).toBe('x')
      await tx.unsafe('reset role')
      expect(
        await answer(
          tx,
          `select vault._crypto_aead_det_decrypt(decode(secret, 'base64'), 'elsewhere', 0, 'pgsodium', nonce) from vault.secrets where name = 'test q'`,
        ),
      ).toBe(`${invalid} ciphertext`)
    }))
})

describe('pg_cron answers as hosted Supabase does', () => {
  const one = "select cron.schedule('test j', '* * * * *', 'select 1');"
  cases([
    [
      "select extversion || ' ' || extnamespace::regnamespace from pg_extension where extname = 'pg_cron'",
      is15 ? '1.4-1 pg_catalog' : '1.6 pg_catalog',
    ],
    [
      `${one} select username || ' ' || (database = current_database()) || ' ' || active from cron.job where jobname = 'test j'`,
      'postgres true true',
    ],
    [
      `${one} select cron.schedule('test j', '0 0 * * *', 'select 2'); select count(*) || min(command) from cron.job where jobname = 'test j'`,
      '1select 2',
    ],
    [`${one} select cron.unschedule('test j')`, 'true'],
    ["select cron.unschedule(cron.schedule('* * * * *', 'select 1'))", 'true'],
    ["select cron.unschedule('test none')", "XX000 could not find valid entry for job 'test none'"],
    ['select cron.unschedule(999999)', 'XX000 could not find valid entry for job 999999'],
    [
      "insert into cron.job (schedule, command) values ('* * * * *', 'select 1')",
      '42501 permission denied for table job',
    ],
    ['update cron.job set active = false where false', '42501 permission denied for table job'],
    ['delete from cron.job where false', '42501 permission denied for table job'],
    ['select cron.alter_job(999999, active := false)', "XX000 Job 999999 does not exist or you don't own it"],
    [
      `${one} select cron.alter_job(jobid, active := false) from cron.job where jobname = 'test j'; select active from cron.job where jobname = 'test j'`,
      'false',
    ],
    ['delete from cron.job_run_details where false', ''],
    [
      "select cron.schedule_in_database('test x', '* * * * *', 'select 1', 'postgres', 'supabase_admin')",
      'XX000 must be superuser to create a job for another role',
    ],
    ["select cron.schedule_in_database('test x', '* * * * *', 'select 1', 'postgres') > 0", 'true'],
    [
      "select cron.schedule_in_database('test x', '* * * * *', 'select 1', 'nowhere')",
      '3D000 database "nowhere" does not exist',
    ],
    ['grant usage on schema cron to service_role; grant execute on all functions in schema cron to service_role', ''],
    [
      `grant usage on schema cron to service_role; ${one} ${as('service_role', "select cron.unschedule('test j')")}`,
      "XX000 could not find valid entry for job 'test j'",
    ],
    [
      `grant usage on schema cron to service_role; ${as('service_role', `${one} select username from cron.job where jobname = 'test j'`)}`,
      'service_role',
    ],
    [as('authenticated', 'select * from cron.job'), '42501 permission denied for schema cron'],
    [as('anon', one), '42501 permission denied for schema cron'],
  ])

  const newer = ['0 0 $ * *', '30 seconds', '1 second']
  test.each(['* * * * *', '*/5 0-6,22 1 jan-mar mon', '@daily', ...(is15 ? [] : newer)])(
    '%s is a schedule',
    (schedule) =>
      inTransaction(async (tx) =>
        expect(await answer(tx, `select cron.schedule('${schedule}', 'select 1') > 0`)).toBe('true'),
      ),
  )

  test.each([
    '',
    'nope',
    '* * * *',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * * 13 *',
    '* * * * 8',
    '0 seconds',
    '60 seconds',
    ...(is15 ? newer : []),
  ])('"%s" is no schedule', (schedule) =>
    inTransaction(async (tx) =>
      expect(await answer(tx, `select cron.schedule('${schedule}', 'select 1')`)).toBe(
        `22023 invalid schedule: ${schedule}`,
      ),
    ),
  )

  test.skipIf(!ours)(
    'nobody can write a job in the name of another role through the private view (stand-in only)',
    () =>
      inTransaction(async (tx) => {
        const forged = `insert into cron._own_job (jobid, schedule, command, nodename, nodeport, database, username, active)
        values (-1, '* * * * *', 'select 1', 'localhost', 1, 'postgres', 'supabase_admin', true)`

        expect(await answer(tx, forged)).toBe('44000 new row violates check option for view "_own_job"')
      }),
  )

  test.skipIf(!ours).each([
    ['*/15 * * * *', '2026-11-21 04:30Z', true],
    ['*/15 * * * *', '2026-11-21 04:31Z', false],
    ['0 9 * * mon-fri', '2026-11-20 09:00Z', true],
    ['0 9 * * mon-fri', '2026-11-21 09:00Z', false],
    ['0 0 1 * 7', '2026-11-22 00:00Z', true],
    ['0 0 $ * *', '2026-11-30 00:00Z', true],
    ['@hourly', '2026-11-21 04:00Z', true],
    ['30 seconds', '2026-11-21 04:00Z', false],
  ])('%s at %s: due is %s (stand-in only)', (schedule, at, due) =>
    inTransaction(async (tx) =>
      expect(await answer(tx, `select cron._is_due('${schedule}', '${at}')`)).toBe(String(due)),
    ),
  )
})

describe('pg_net answers as hosted Supabase does', () => {
  cases([
    [
      "drop extension pg_net; create extension pg_net with schema extensions; select extnamespace::regnamespace from pg_extension where extname = 'pg_net'",
      'extensions',
    ],
    [
      'select net.http_get(\'http://127.0.0.1:9/x\', \'{"q": "a b&é"}\') > 0; select url from net.http_request_queue order by id desc limit 1',
      'http://127.0.0.1:9/x?q=a%20b%26%C3%A9',
    ],
    [
      "select net.http_post('http://127.0.0.1:9/x', '{\"a\": 1}'); select method || headers || convert_from(body, 'utf8') || timeout_milliseconds from net.http_request_queue order by id desc limit 1",
      'POST{"Content-Type": "application/json"}{"a": 1}5000',
    ],
    [
      'select net.http_post(\'http://127.0.0.1:9/x\', headers := \'{"content-type": "text/plain"}\')',
      'P0001 Content-Type header must be "application/json"',
    ],
    [
      "select net.http_delete('http://127.0.0.1:9/x'); select method from net.http_request_queue order by id desc limit 1",
      'DELETE',
    ],
    ["select net.http_get('/malformed')", 'XX000 invalid URL "/malformed": Bad scheme'],
    ["select net.http_post('')", 'XX000 invalid URL "": Bad scheme'],
    ["select net.http_get('http://a b/')", 'XX000 invalid URL "http://a b/": Malformed input to a URL function'],
    ['select (net._http_collect_response(-1)).status', 'ERROR'],
    [as('anon', "select net.http_get('http://127.0.0.1:9/x') > 0"), 'true'],
  ])
})

test.skipIf(!ours)('every function has a comment and a fixed search_path (stand-in only)', () =>
  inTransaction(async (tx) => {
    const rows = await tx.unsafe(`select oid::regprocedure::text as name from pg_proc
      where pronamespace in ('pgsodium'::regnamespace, 'vault'::regnamespace, 'cron'::regnamespace, 'net'::regnamespace)
        and (obj_description(oid, 'pg_proc') is null or proconfig is distinct from '{"search_path=\\"\\""}')`)

    expect(rows.map((row) => row.name)).toEqual([])
  }),
)
