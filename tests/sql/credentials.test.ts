/** The vault: what is sealed opens for its purpose and nowhere else, and every attack on it shows. */
import { createCipheriv, createHmac, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { addFactor } from '../support/sql.ts'
import {
  type Account,
  asRole,
  asUser,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  type Tx,
  together,
} from './support.ts'

const schemes = ['aead-det', 'A256CBC-HS512'] as const
type Fields = { api_key?: string; api_secret?: string; passphrase?: string }
const given: Fields = { api_key: 'AKIA-their-exchange-key-7Qx4', api_secret: 'their secret, ümläuts and all' }

/** A256CBC-HS512 as RFC 7518 has it, written with Node's own primitives: what the function `credentials` sends. */
function encrypted(key: Buffer, data: string, text: string) {
  const nonce = randomBytes(16)
  const cipher = createCipheriv('aes-256-cbc', key.subarray(32), nonce)
  const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
  const length = Buffer.alloc(8)
  length.writeBigUInt64BE(BigInt(8 * Buffer.byteLength(data)))
  const mac = createHmac('sha512', key.subarray(0, 32)).update(Buffer.concat([Buffer.from(data), nonce, body, length]))
  return { nonce, ciphertext: Buffer.concat([body, mac.digest().subarray(0, 32)]) }
}

type Transfer = { transfer_id: string; key: string }
/** `request` is what the function `credentials` says of the call. */
const start = async (as: Sql | Tx, { id, sessionId }: Account, request: object | null = null): Promise<Transfer> => {
  const said = request && JSON.stringify(request)
  const [row] = await as`select private.start_secret_transfer(${id}, ${sessionId}, ${said}::text::jsonb) as transfer`
  return row?.transfer
}

type Place = { credential_id?: string; kind?: string; provider?: string; name?: string }
const save = async (
  as: Sql | Tx,
  { transfer_id, key }: Transfer,
  fields: unknown,
  place: Place = {},
): Promise<string> => {
  const { credential_id = null, kind = 'exchange', provider = 'kraken', name = 'My account' } = place
  const { nonce, ciphertext } = encrypted(Buffer.from(key, 'hex'), transfer_id, JSON.stringify(fields))
  const [row] = await as`
    select private.save_credential(${transfer_id}, ${nonce}, ${ciphertext}, ${credential_id}, ${kind}, ${provider}, ${name}) as saved`
  return row?.saved.id
}

const add = async (tx: Tx, account: Account, fields: Fields = given, place: Place = {}) =>
  save(tx, await start(tx, account), fields, place)

const open = async (as: Sql | Tx, id: string, purpose = 'sync') =>
  (await as`select private.open(${id}, ${purpose}, 'req-1') as opened`)[0]?.opened

const eventsOf = (tx: Tx, { id }: Account) =>
  tx`select type, severity, details from public.security_events where user_id = ${id} and type = 'credential_unreadable'`

const auditOf = async (tx: Tx, { id }: Account) =>
  (
    await tx`select action, result from private.audit_log where user_id = ${id} and action like 'credential.%' order by id`
  ).map(({ action, result }) => `${action} ${result}`)

const useScheme = (tx: Tx | Sql, scheme: string) =>
  tx`update private.settings set value = to_jsonb(${scheme}::text) where key = 'credentials.scheme'`

describe.each(schemes)('sealed with %s', (scheme) => {
  const inScheme = (story: (tx: Tx, account: Account) => Promise<void>) =>
    rolledBack(async (tx) => {
      await useScheme(tx, scheme)
      await tx`select private.rotate_credential_keys()`
      await story(tx, await newAccount(tx))
    })

  test('a credential opens as it was given, and the opening is audited with its purpose', () =>
    inScheme(async (tx, account) => {
      const id = await add(tx, account)

      expect(await open(tx, id)).toEqual({
        opened: true,
        user_id: account.id,
        kind: 'exchange',
        provider: 'kraken',
        version: 1,
        fields: given,
      })
      expect(await tx`select scheme from private.credential_secrets where credential_id = ${id}`).toMatchObject([
        { scheme },
        { scheme },
      ])
      const [entry] =
        await tx`select details, resource_id from private.audit_log where action = 'credential.open' and user_id = ${account.id}`
      expect(entry).toEqual({ resource_id: id, details: { purpose: 'sync', request_id: 'req-1' } })
    }))

  test('an empty field is refused in words, since pgsodium would never open it again', () =>
    inScheme(async (tx, account) => {
      const refused = await refusal(tx, (as) => add(as, account, { ...given, passphrase: '' }))
      const sealed = await refusal(tx, (as) => as`select private.seal('', ${account.id}, 'a context')`)

      expect(refused).toMatchObject({ code: 'invalid_request_error', message: 'passphrase is empty: leave it out.' })
      expect(sealed).toMatchObject({ sqlstate: '22023' })
    }))

  test('the same secret twice is not the same ciphertext', () =>
    inScheme(async (tx, account) => {
      const ids = [await add(tx, account), await add(tx, account)]

      const rows = await tx`select ciphertext::text from private.credential_secrets where credential_id = any(${ids})`
      expect(new Set(rows.map((row) => row.ciphertext)).size).toBe(4)
    }))

  const attacks: Record<string, (tx: Tx, id: string, other: string) => PromiseLike<unknown>> = {
    'a flipped bit': (tx, id) =>
      tx`update private.credential_secrets set ciphertext = set_bit(ciphertext, 9, 1 - get_bit(ciphertext, 9)) where credential_id = ${id} and field = 'api_key'`,
    'a flipped bit at the end': (tx, id) =>
      tx`update private.credential_secrets set ciphertext = set_bit(ciphertext, 8 * octet_length(ciphertext) - 1,
        1 - get_bit(ciphertext, 8 * octet_length(ciphertext) - 1)) where credential_id = ${id} and field = 'api_key'`,
    'another nonce': (tx, id) =>
      tx`update private.credential_secrets set nonce = set_bit(nonce, 3, 1 - get_bit(nonce, 3)) where credential_id = ${id} and field = 'api_key'`,
    'a byte less': (tx, id) =>
      tx`update private.credential_secrets set ciphertext = substring(ciphertext for octet_length(ciphertext) - 1) where credential_id = ${id} and field = 'api_key'`,
    'only 32 bytes': (tx, id) =>
      tx`update private.credential_secrets set ciphertext = substring(ciphertext for 32) where credential_id = ${id} and field = 'api_key'`,
    'swapped fields': (tx, id) => tx`
      update private.credential_secrets s set nonce = o.nonce, ciphertext = o.ciphertext
      from private.credential_secrets o where s.credential_id = ${id} and o.credential_id = ${id} and s.field <> o.field`,
    'another row of the same user': (tx, id, other) => tx`
      update private.credential_secrets s set nonce = o.nonce, ciphertext = o.ciphertext
      from private.credential_secrets o where s.credential_id = ${id} and o.credential_id = ${other} and s.field = o.field`,
    'given to another user': async (tx, id) => {
      const thief = await newAccount(tx)
      await tx`update public.credentials set user_id = ${thief.id} where id = ${id}`
    },
    'another key': async (tx, id) => {
      const [key] = await tx`select private.new_data_key('credentials') as id`
      await tx`update private.credential_secrets set data_key_id = ${key?.id} where credential_id = ${id}`
    },
    'a key of another kind': async (tx, id) => {
      await useScheme(tx, scheme === 'aead-det' ? 'A256CBC-HS512' : 'aead-det')
      const [key] = await tx`select private.new_data_key('credentials') as id`
      await tx`update private.credential_secrets s set data_key_id = k.id, scheme = k.scheme from private.data_keys k
        where k.id = ${key?.id} and s.credential_id = ${id}`
    },
    'a retired key': (tx, id) => tx`
      update private.data_keys set is_current = false, retired_at = now()
      where id in (select data_key_id from private.credential_secrets where credential_id = ${id})`,
    'a secret that is gone': (tx, id) => tx`delete from private.credential_secrets where credential_id = ${id}`,
  }
  test.each(Object.keys(attacks))('%s: it does not open, fails, and is a critical event', (name) =>
    inScheme(async (tx, account) => {
      const [id, other] = [
        await add(tx, account),
        await add(tx, account, { api_key: 'another key of theirs', api_secret: 'x' }),
      ]
      await attacks[name]?.(tx, id, other)

      expect(await open(tx, id)).toEqual({ opened: false, code: 'credential_unreadable' })
      const [now] = await tx`select user_id, status, status_reason from public.credentials where id = ${id}`
      expect(now).toMatchObject({ status: 'failed', status_reason: 'unreadable' })
      const owner = { id: now?.user_id, sessionId: '' }
      expect(await eventsOf(tx, owner)).toMatchObject([
        { severity: 'critical', details: { credential_id: id, purpose: 'sync' } },
      ])
      expect(await auditOf(tx, owner)).toContain('credential.open failed')
    }),
  )

  test('a rotation moves everything to a new key, and the old one opens nothing any more', () =>
    inScheme(async (tx, account) => {
      // Those of other tests would be counted, too.
      await tx`delete from public.credentials`
      const ids = [await add(tx, account), await add(tx, account), await add(tx, account)]
      const [before] =
        await tx`select data_key_id from private.credential_secrets where credential_id = ${ids[0] ?? ''}`
      await tx`select private.rotate_credential_keys()`

      const [first] = await tx`select private.reseal_credentials(2) as done, private.retire_data_keys() as retired`
      expect(first).toMatchObject({ done: { resealed: 2, left: 1 } })
      const [second] = await tx`select private.reseal_credentials(2) as done`
      expect(second?.done).toMatchObject({ left: 0 })
      await tx`select private.retire_data_keys()`

      for (const id of ids) expect(await open(tx, id)).toMatchObject({ opened: true, fields: given })
      const [key] = await tx`select retired_at is not null as retired,
        exists (select from vault.secrets s where s.id = k.secret_id) as in_vault from private.data_keys k where id = ${before?.data_key_id}`
      expect(key).toEqual({ retired: true, in_vault: false })
    }))
})

test('everything moves from one scheme to the other and back', () =>
  rolledBack(async (tx) => {
    const account = await newAccount(tx)
    const ids = [await add(tx, account), await add(tx, account, { ...given, passphrase: 'and a passphrase' })]

    for (const scheme of ['A256CBC-HS512', 'aead-det']) {
      await useScheme(tx, scheme)
      await tx`select private.rotate_credential_keys()`
      const [row] = await tx`select private.reseal_credentials() as done`
      expect(row?.done).toMatchObject({ left: 0 })
      const used = await tx`select distinct scheme from private.credential_secrets where credential_id = any(${ids})`
      expect(used).toMatchObject([{ scheme }])
    }

    expect(await open(tx, ids[0] ?? '')).toMatchObject({ fields: given })
    expect(await open(tx, ids[1] ?? '')).toMatchObject({ fields: { ...given, passphrase: 'and a passphrase' } })
  }))

test('what cannot be opened does not stop a rotation, and keeps its key', () =>
  rolledBack(async (tx) => {
    const account = await newAccount(tx)
    const [broken, whole] = [await add(tx, account), await add(tx, account)]
    await tx`update private.credential_secrets set nonce = ciphertext::bytea where false`
    await tx`update private.credential_secrets set nonce = set_bit(nonce, 0, 1 - get_bit(nonce, 0)) where credential_id = ${broken}`
    await tx`select private.rotate_credential_keys()`

    await tx`select private.reseal_credentials()`
    const [row] = await tx`select private.reseal_credentials() as done`
    await tx`select private.retire_data_keys()`

    expect(row?.done).toMatchObject({ resealed: 0, left: 0 })
    expect(row?.done.unreadable).toBeGreaterThan(0)
    expect(await open(tx, whole)).toMatchObject({ opened: true })
    expect(
      await tx`select k.retired_at from private.credential_secrets s join private.data_keys k on k.id = s.data_key_id
      where s.credential_id = ${broken}`,
    ).toMatchObject([{ retired_at: null }, { retired_at: null }])
  }))

test('the tag is that of RFC 7518, appendix B.3', () =>
  rolledBack(async (tx) => {
    const hex = (text: string) => Buffer.from(text.replace(/\s/g, ''), 'hex')
    const key = Buffer.from(Array.from({ length: 64 }, (_, at) => at))
    const nonce = hex('1af38c2dc2b96ffdd86694092341bc04')
    const data = Buffer.from('The second principle of Auguste Kerckhoffs')
    const text =
      'A cipher system must not be required to be secret, and it must be able to fall into the hands of the enemy without inconvenience'

    const [row] = await tx`
      with body as (select extensions.encrypt_iv(${Buffer.from(text)}, ${key.subarray(32)}, ${nonce}, 'aes-cbc/pad:pkcs') as bytes)
      select bytes, private.cbc_hmac_tag(${key.subarray(0, 32)}, ${data}, ${nonce}, bytes) as tag from body`

    expect(row?.bytes.subarray(0, 16)).toEqual(hex('4affaaadb78c31c5da4b1b590d10ffbd'))
    expect(row?.tag).toEqual(hex('4dd3b4c088a7f45c216839645b2012bf2e6269a8c56a816dbc1b267761955bc5'))
  }))

describe('opening', () => {
  test('needs a purpose of the list', () =>
    rolledBack(async (tx) => {
      const id = await add(tx, await newAccount(tx))

      for (const purpose of ['curiosity', null])
        expect(await refusal(tx, (as) => as`select private.open(${id}, ${purpose}, null)`)).toMatchObject({
          code: 'invalid_request_error',
        })
    }))

  test('is for the service role only', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const id = await add(tx, account)

      expect(await refusal(tx, (as) => asUser(as, account.id, (own) => open(own, id)))).toMatchObject({
        sqlstate: '42501',
      })
      expect(await asRole(tx, 'service_role', { role: 'service_role' }, (as) => open(as, id))).toMatchObject({
        opened: true,
      })
    }))

  test('of what is not there says so', () =>
    rolledBack(async (tx) => {
      expect(await open(tx, crypto.randomUUID())).toEqual({ opened: false, code: 'not_found' })
    }))
})

describe('a transfer', () => {
  test.each([
    ['used twice', 'select 1'],
    ['too old', "update private.secret_transfers set created_at = now() - interval '61 seconds'"],
  ])('%s is refused', (name, before) =>
    rolledBack(async (tx) => {
      const transfer = await start(tx, await newAccount(tx))
      if (name === 'used twice') await save(tx, transfer, given)
      await tx.unsafe(before)

      expect(await refusal(tx, (as) => save(as, transfer, given))).toMatchObject({ code: 'invalid_request_error' })
    }),
  )

  test.each(['another key', 'another transfer', 'not JSON'])(
    '%s: refused, and the refusal says nothing of the content',
    (how) =>
      rolledBack(async (tx) => {
        const account = await newAccount(tx)
        const [transfer, other] = [await start(tx, account), await start(tx, account)]
        const key = how === 'another key' ? randomBytes(64) : Buffer.from(transfer.key, 'hex')
        const data = how === 'another transfer' ? other.transfer_id : transfer.transfer_id
        const { nonce, ciphertext } = encrypted(
          key,
          data,
          how === 'not JSON' ? 'canary-secret{' : JSON.stringify(given),
        )

        const refused = await refusal(
          tx,
          (as) => as`
        select private.save_credential(${transfer.transfer_id}, ${nonce}, ${ciphertext}, null, 'exchange', 'kraken', 'x')`,
        )

        expect(refused.code).toBe('invalid_request_error')
        expect(refused.message).not.toContain('canary')
      }),
  )

  test('needs the second factor of a user who has one', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await addFactor(tx, account.id)
      expect(await refusal(tx, (as) => start(as, account))).toMatchObject({ code: 'insufficient_aal' })

      await tx`update auth.sessions set aal = 'aal2' where id = ${account.sessionId}`
      // A token from before the second factor.
      expect(await refusal(tx, (as) => start(as, account, { aal: 'aal1' }))).toMatchObject({ code: 'insufficient_aal' })
      expect(await start(tx, account, { aal: 'aal2' })).toMatchObject({
        key: expect.stringMatching(/^[0-9a-f]{128}$/),
      })
    }))

  test('exactly as many an hour as the setting says, however many race', () =>
    racing(10, async (sql, accounts) => {
      const account = await accounts()
      await sql`insert into private.secret_transfers (user_id, scheme, data_key_id, nonce, ciphertext)
        select ${account.id}, k.scheme, k.id, decode(repeat('00', 16), 'hex'), decode(repeat('00', 64), 'hex')
        from private.current_data_key('transfers') k, generate_series(1, 15)`

      const results = await together(10, () => start(sql, account))

      expect(results.filter((result) => 'key' in result)).toHaveLength(5)
      expect(results.filter((result) => 'code' in result && result.code === 'rate_limit_exceeded')).toHaveLength(5)
    }))
})

describe('a function for users', () => {
  const acts = (id: string) => ({
    'start a transfer': (as: Tx, { id: user, sessionId }: Account) =>
      as`select private.start_secret_transfer(${user}, ${sessionId})`,
    'test it': (as: Tx, { id: user, sessionId }: Account) =>
      as`select private.start_credential_test(${user}, ${sessionId}, ${id})`,
    'rename it': (as: Tx, { id: user, sessionId }: Account) =>
      as`select private.rename_credential(${user}, ${sessionId}, ${id}, 'x')`,
    'delete it': (as: Tx, { id: user, sessionId }: Account) =>
      as`select private.delete_credential(${user}, ${sessionId}, ${id})`,
  })
  /** What each state of an account, or each wrong session, is refused with, as a change to both. */
  const states: [string, string, (tx: Tx, account: Account) => Promise<unknown>][] = [
    [
      'whose session has ended',
      'invalid_api_key',
      (tx, { sessionId }) => tx`delete from auth.sessions where id = ${sessionId}`,
    ],
    [
      'with another’s session',
      'invalid_api_key',
      async (tx, account) => {
        account.sessionId = (await newAccount(tx)).sessionId
      },
    ],
    [
      'without a session',
      'invalid_api_key',
      async (_tx, account) => {
        account.sessionId = crypto.randomUUID()
      },
    ],
    [
      'that is suspended',
      'account_suspended',
      (tx, { id }) => tx`update public.profiles set status = 'suspended' where id = ${id}`,
    ],
    [
      'that is banned',
      'account_suspended',
      (tx, { id }) => tx`update auth.users set banned_until = now() + interval '1 day' where id = ${id}`,
    ],
    [
      'that is not confirmed',
      'account_pending',
      (tx, { id }) => tx`update public.profiles set status = 'pending' where id = ${id}`,
    ],
    ['with a second factor it did not use', 'insufficient_aal', (tx, { id }) => addFactor(tx, id)],
    [
      'of the team without a second factor',
      'insufficient_aal',
      (tx, { id }) => tx`update public.profiles set role = 'support' where id = ${id}`,
    ],
  ]

  test.each(states)('refuses an account %s', (_state, code, change) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const id = await add(tx, account)
      await change(tx, account)

      for (const [what, act] of Object.entries(acts(id)))
        expect(await refusal(tx, (as) => act(as, account)), what).toMatchObject({ code })
    }),
  )

  test('is in the log with who acted, and from where', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const id = await add(tx, account)
      const request = { aal: 'aal1', ip: '203.0.113.9', user_agent: 'An app', request_id: 'req-7' }

      await tx`
        select private.rename_credential(${account.id}, ${account.sessionId}, ${id}, 'x', ${JSON.stringify(request)}::text::jsonb)`

      expect(
        await tx`
          select actor_id, actor_role, host(ip) as ip, user_agent, request_id
          from private.audit_log where user_id = ${account.id} and action = 'credential.rename'`,
      ).toEqual([
        {
          ...{ actor_id: account.id, actor_role: 'authenticated', ip: '203.0.113.9', user_agent: 'An app' },
          request_id: 'req-7',
        },
      ])
    }))

  test('goes on, with no address in the log, where no header tells one', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const id = await add(tx, account)
      await tx`update private.settings set value = '[]' where key = 'http.client_ip_header'`
      const request = JSON.stringify({ aal: 'aal1', ip: '203.0.113.9', user_agent: null, request_id: 'req-8' })

      await tx`select private.delete_credential(${account.id}, ${account.sessionId}, ${id}, ${request}::text::jsonb)`

      expect(
        await tx`
          select ip, request_id from private.audit_log where user_id = ${account.id} and action = 'credential.delete'`,
      ).toEqual([{ ip: null, request_id: 'req-8' }])
    }))
})

describe('a credential', () => {
  test('is pending until it was tested, and shows four characters of a long key and none of a short one', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const [id, short] = [await add(tx, account), await add(tx, account, { api_key: 'short key' })]

      const mine = await asUser(
        tx,
        account.id,
        (as) => as`select id, status, last_four, name from public.credentials order by id`,
      )
      expect(mine).toEqual([
        { id, status: 'pending', last_four: '7Qx4', name: 'My account' },
        { id: short, status: 'pending', last_four: '', name: 'My account' },
      ])
      await tx`select private.note_credential_test(${id}, 1, null, '{read}')`
      await tx`select private.note_credential_test(${short}, 1, 'wrong_key')`
      expect(
        await tx`select status, status_reason from public.credentials where user_id = ${account.id} order by id`,
      ).toEqual([
        { status: 'active', status_reason: null },
        { status: 'failed', status_reason: 'wrong_key' },
      ])
    }))

  test('is not called active by the test of a key that was replaced meanwhile', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const id = await add(tx, account)
      await add(tx, account, { api_key: 'a wholly different key 9Zz9', api_secret: 'new' }, { credential_id: id })
      const note = async (version: number) =>
        (await tx`select private.note_credential_test(${id}, ${version}, null, '{read}') as noted`)[0]?.noted
      const status = async () => (await tx`select status, version from public.credentials where id = ${id}`)[0]

      expect([await note(1), await status()]).toEqual([false, { status: 'pending', version: 2 }])
      expect([await note(2), await status()]).toEqual([true, { status: 'active', version: 2 }])
    }))

  test('gets another key in its place, and is pending again', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const id = await add(tx, account, { ...given, passphrase: 'old' })
      await tx`select private.note_credential_test(${id}, 1, null)`
      const renewed = { api_key: 'a wholly different key 9Zz9', api_secret: 'new' }

      expect(await add(tx, account, renewed, { credential_id: id })).toBe(id)

      expect(await open(tx, id)).toMatchObject({ fields: renewed })
      expect(await tx`select status, last_four from public.credentials where id = ${id}`).toMatchObject([
        { status: 'pending', last_four: '9Zz9' },
      ])
      expect(await auditOf(tx, account)).toEqual([
        'credential.create success',
        'credential.rotate success',
        'credential.open success',
      ])
    }))

  test('is renamed and deleted by its owner, and by nobody else', () =>
    rolledBack(async (tx) => {
      const [account, stranger] = [await newAccount(tx), await newAccount(tx)]
      const id = await add(tx, account)

      for (const act of [
        (as: Tx) => asUser(as, stranger.id, (own) => own`select public.delete_credential(${id})`),
        (as: Tx) => asUser(as, stranger.id, (own) => own`select public.rename_credential(${id}, 'mine now')`),
        (as: Tx) => add(as, stranger, given, { credential_id: id }),
      ])
        expect(await refusal(tx, act)).toMatchObject({ code: 'not_found' })
      await asUser(tx, account.id, (as) => as`select public.rename_credential(${id}, ' Savings ')`)
      expect(await tx`select name from public.credentials where id = ${id}`).toMatchObject([{ name: 'Savings' }])

      await asUser(tx, account.id, (as) => as`select public.delete_credential(${id})`)

      expect(await tx`select from private.credential_secrets where credential_id = ${id}`).toHaveLength(0)
    }))

  test.each([
    [{ provider: 'mtgox' }, 'not_found'],
    [{ kind: 'ai_provider', provider: 'kraken' }, 'not_found'],
    [{ kind: 'bank' }, 'not_found'],
    [{ name: '  ' }, 'invalid_request_error'],
  ])('%j is refused', (place, code) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      expect(await refusal(tx, (as) => add(as, account, given, place))).toMatchObject({ code })
    }),
  )

  test('without a key, or one too many, is refused', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      expect(await refusal(tx, (as) => add(as, account, { api_secret: 'x' }))).toMatchObject({
        code: 'invalid_request_error',
      })

      await tx`update private.settings set value = '1' where key = 'credentials.max_per_user'`
      await add(tx, account)
      expect(await refusal(tx, (as) => add(as, account))).toMatchObject({ code: 'invalid_request_error' })
    }))
})

test('a rotation passes over what somebody is opening, and no key is retired under it', () =>
  racing(2, async (sql, accounts) => {
    const account = await accounts()
    const id = await sql.begin(async (tx) => save(tx, await start(tx, account), given))
    const keyOf = () =>
      sql`select data_key_id from private.credential_secrets where credential_id = ${id} and field = 'api_key'`
    const [before] = await keyOf()

    await sql.begin(async (reader) => {
      expect(await open(reader, id)).toMatchObject({ opened: true })
      await sql`select private.rotate_credential_keys()`
      await sql`select private.keep_credentials_sealed()`
      expect(await keyOf()).toEqual([before])
      expect(await open(reader, id)).toMatchObject({ opened: true, fields: given })
    })

    await sql`select private.keep_credentials_sealed()`
    expect(await keyOf()).not.toEqual([before])
    expect(await open(sql, id)).toMatchObject({ opened: true, fields: given })
  }))

test('a rotation disturbs neither readers nor writers, and crashes in the middle of it lose nothing', () =>
  racing(6, async (sql, accounts) => {
    const owners = await Promise.all(Array.from({ length: 4 }, () => accounts()))
    const mine = (account: Account, place: Place = {}, fields: Fields = given) =>
      sql.begin(async (tx) => save(tx, await start(tx, account), fields, place))
    const ids = (await Promise.all(owners.map((owner) => Promise.all([mine(owner), mine(owner), mine(owner)])))).flat()
    await sql`select private.rotate_credential_keys()`
    let left = Number.POSITIVE_INFINITY
    const failures: unknown[] = []

    const rotate = async () => {
      while (left > 0) {
        const crashed = sql.begin(async (tx) => {
          await tx`select private.reseal_credentials(3)`
          throw new Error('crash')
        })
        await crashed.catch(() => {})
        const [row] = await sql`select private.reseal_credentials(2) as done`
        left = row?.done.left
      }
    }
    const read = async () => {
      for (let at = 0; left > 0; at += 1) {
        const opened = await open(sql, ids[at % ids.length] ?? '')
        if (!opened.opened || !opened.fields.api_key) failures.push(opened)
      }
    }
    const owner = owners[0] ?? (await accounts())
    const write = async () => {
      for (let at = 0; left > 0 && at < 10; at += 1)
        await mine(owner, { credential_id: ids[at % 3] ?? '' }, { api_key: `written meanwhile ${at}`, api_secret: 'x' })
    }
    await Promise.all([rotate(), read(), read(), write()])
    const [row] = await sql`select private.reseal_credentials() as done, private.retire_data_keys() as retired`

    expect(failures).toEqual([])
    expect(row?.done).toMatchObject({ left: 0 })
    for (const id of ids) expect(await open(sql, id)).toMatchObject({ opened: true })
  }))
