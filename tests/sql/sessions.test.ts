/** Sessions: what makes one live, who may still read, devices, lists, and what the Auth service's doings set off. */
import { describe, expect, test } from 'vitest'
import { addFactor, addSession } from '../support/sql.ts'
import { asRole, asUser, eventsOf, newAccount, racing, refusal, rolledBack, type Tx, together } from './support.ts'

const code = async (tx: Tx, userId: string, claims: object = {}) =>
  (await refusal(tx, (sp) => asUser(sp, userId, (as) => as`select * from public.get_my_credits()`, claims))).code

const chatsSeen = (tx: Tx, userId: string, claims: object = {}) =>
  asUser(tx, userId, async (as) => (await as`select id from public.chats`).length, claims)

/** An account with one chat: what its owner can see as long as everything is well. */
async function ownerOfAChat(tx: Tx) {
  const account = await newAccount(tx)
  await tx`insert into public.chats (user_id) values (${account.id})`
  return account
}

const newSession = (tx: Tx, userId: string, ip: string | null = null, userAgent: string | null = null) =>
  addSession(tx, userId, { ip, userAgent })

const isThere = async (tx: Tx, sessionId: string) =>
  (await tx`select from auth.sessions where id = ${sessionId}`).length === 1

describe('the end of a session', () => {
  const told = (tx: Tx, userId: string) => tx`
    select event, payload ->> 'session_id' as id, private from realtime.messages where topic = ${`user:${userId}`}`

  test('is told on the channel of its user, by the id of that session', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const [ends, lasts] = [await newSession(tx, id), await newSession(tx, id)]

      await asUser(tx, id, (as) => as`select public.revoke_my_session(${ends})`, { session_id: lasts })

      expect(await told(tx, id)).toEqual([{ event: 'session_ended', id: ends, private: true }])
    }))
})

describe('a session that does not count', () => {
  const endings: [string, (tx: Tx, id: string) => PromiseLike<unknown>][] = [
    ['was deleted', (tx, id) => tx`delete from auth.sessions where id = ${id}`],
    ['is past its end', (tx, id) => tx`update auth.sessions set not_after = now() where id = ${id}`],
    [
      'was idle for too long',
      (tx, id) => tx`
        update auth.sessions set created_at = now() - interval '200 hours',
          refreshed_at = (now() - interval '168 hours') at time zone 'UTC' where id = ${id}`,
    ],
    [
      'was never refreshed and is idle since its sign-in',
      (tx, id) => tx`update auth.sessions set created_at = now() - interval '168 hours' where id = ${id}`,
    ],
    [
      'is older than a session may be',
      (tx, id) => tx`
        update auth.sessions set created_at = now() - interval '720 hours', refreshed_at = now() at time zone 'UTC'
        where id = ${id}`,
    ],
    [
      'has no limits to go by',
      (tx) => tx`delete from private.settings where key in ('sessions.idle_hours', 'sessions.absolute_hours')`,
    ],
  ]

  test('because a limit was shortened since reads nothing from the next statement on', () =>
    rolledBack(async (tx) => {
      const { id, sessionId } = await ownerOfAChat(tx)
      await tx`update auth.sessions set created_at = now() - interval '5 hours' where id = ${sessionId}`
      const seenWith = async (key: string, hours: number) => {
        await tx`update private.settings set value = to_jsonb(${hours}::integer) where key = ${key}`
        return chatsSeen(tx, id, { session_id: sessionId })
      }

      expect(await seenWith('sessions.absolute_hours', 6)).toBe(1)
      expect(await seenWith('sessions.absolute_hours', 4)).toBe(0)
      expect(await seenWith('sessions.absolute_hours', 6)).toBe(1)
      expect(await seenWith('sessions.idle_hours', 4)).toBe(0)
    }))

  test.each(endings)('because it %s reads nothing and calls nothing', async (_why, end) => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await ownerOfAChat(tx)
      expect(await chatsSeen(tx, id)).toBe(1)

      await end(tx, sessionId)

      expect(await chatsSeen(tx, id, { session_id: sessionId })).toBe(0)
      expect(await code(tx, id, { session_id: sessionId })).toBe('invalid_api_key')
    })
  })

  test("because it is somebody else's reads nothing", async () => {
    await rolledBack(async (tx) => {
      const { id } = await ownerOfAChat(tx)
      const stranger = await newAccount(tx)

      expect(await chatsSeen(tx, id, { session_id: stranger.sessionId })).toBe(0)
      expect(await chatsSeen(tx, id, { session_id: undefined })).toBe(0)
    })
  })

  test('a session shortly before its limits still counts', async () => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await ownerOfAChat(tx)
      await tx`
        update auth.sessions set created_at = now() - interval '719 hours',
          refreshed_at = (now() - interval '167 hours') at time zone 'UTC' where id = ${sessionId}`

      expect(await chatsSeen(tx, id)).toBe(1)
    })
  })
})

const states: [string, string, (tx: Tx, id: string) => PromiseLike<unknown>][] = [
  [
    'is suspended',
    'account_suspended',
    (tx, id) => tx`update public.profiles set status = 'suspended' where id = ${id}`,
  ],
  ['is deleted', 'invalid_api_key', (tx, id) => tx`update public.profiles set status = 'deleted' where id = ${id}`],
  [
    'is banned',
    'account_suspended',
    (tx, id) => tx`update auth.users set banned_until = now() + interval '1 hour' where id = ${id}`,
  ],
  ['has a second factor it did not use', 'insufficient_aal', (tx, id) => addFactor(tx, id)],
]

describe('an account that may not', () => {
  test.each(states)('because it %s reads nothing and is told so', async (_why, expected, change) => {
    await rolledBack(async (tx) => {
      const { id } = await ownerOfAChat(tx)

      await change(tx, id)

      expect(await chatsSeen(tx, id)).toBe(0)
      expect(await code(tx, id)).toBe(expected)
    })
  })

  test('a pending or anonymous account sees its profile and its limits, and nothing else', async () => {
    await rolledBack(async (tx) => {
      const pending = await newAccount(tx, { confirmed: false })
      const anonymous = await ownerOfAChat(tx)
      await tx`update auth.users set is_anonymous = true where id = ${anonymous.id}`

      for (const { id } of [pending, anonymous]) {
        const seen = await asUser(tx, id, async (as) => ({
          profiles: (await as`select id from public.profiles`).length,
          renamed: (await as`update public.profiles set bio = 'x' where id = ${id}`).count,
          limits: (await as`select * from public.get_my_limits()`).length > 0,
          chats: (await as`select id from public.chats`).length,
        }))
        expect(seen).toEqual({ profiles: 1, renamed: 0, limits: true, chats: 0 })
      }
    })
  })

  test('an anonymous user gets no AI call', async () => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await newAccount(tx)
      await tx`update auth.users set is_anonymous = true where id = ${id}`

      const [row] = await tx`select refusal ->> 'code' as code from private.check_account(${id}, ${sessionId})`

      expect(row?.code).toBe('account_pending')
    })
  })

  test('aal2 needs the token and the session to say so', async () => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await ownerOfAChat(tx)
      await addFactor(tx, id)

      expect(await chatsSeen(tx, id, { aal: 'aal2' })).toBe(0)
      await tx`update auth.sessions set aal = 'aal2' where id = ${sessionId}`
      expect(await chatsSeen(tx, id)).toBe(0)
      expect(await chatsSeen(tx, id, { aal: 'aal2' })).toBe(1)
    })
  })

  test('an AI call needs the second factor where there is one', async () => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await newAccount(tx)
      await addFactor(tx, id)
      const check = async () =>
        (await tx`select refusal ->> 'code' as code from private.check_account(${id}, ${sessionId})`)[0]?.code

      expect(await check()).toBe('mfa_required')
      await tx`update auth.sessions set aal = 'aal2' where id = ${sessionId}`
      expect(await check()).toBeNull()
    })
  })

  test('a policy asks once for a statement, not for a row', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`insert into private.credit_bookings (user_id, amount, kind, reason, idempotency_key, balance_after)
        select ${id}, 1, 'grant', 'x', 'x' || i, 1 from generate_series(1, 50) i`

      const plan = await asUser(tx, id, (as) => as`explain (analyze, verbose) select * from public.credit_entries`)

      const lines = plan.map((row) => String(row['QUERY PLAN'])).filter((line) => /my_user_id/.test(line))
      // For each of the two tables that are the ledger.
      const once = expect.stringMatching(/^ +Output: private\.my_user_id\(/)
      expect(lines).toEqual([once, once])
    })
  })
})

describe('what state an account is in', () => {
  test('is active only when nothing speaks against it, and is_active says the same', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const seen: string[] = []
      for (const status of ['pending', 'active', 'suspended', 'deleted'])
        for (const ban of ['-1 hour', null, '1 hour'])
          for (const anonymous of [false, true]) {
            await tx`update public.profiles set status = ${status} where id = ${id}`
            await tx`
              update auth.users set banned_until = now() + ${ban}::interval, is_anonymous = ${anonymous} where id = ${id}`
            const [row] = await tx`select state, is_active from private.account_states where id = ${id}`
            expect(row?.is_active).toBe(row?.state === 'active')
            seen.push(`${status}${ban === '1 hour' ? ', banned' : ''}${anonymous ? ', anonymous' : ''}: ${row?.state}`)
          }

      expect([...new Set(seen)]).toEqual([
        'pending: pending',
        'pending, anonymous: pending',
        'pending, banned: suspended',
        'pending, banned, anonymous: suspended',
        'active: active',
        'active, anonymous: pending',
        'active, banned: suspended',
        'active, banned, anonymous: suspended',
        'suspended: suspended',
        'suspended, anonymous: suspended',
        'suspended, banned: suspended',
        'suspended, banned, anonymous: suspended',
        'deleted: deleted',
        'deleted, anonymous: deleted',
        'deleted, banned: deleted',
        'deleted, banned, anonymous: deleted',
      ])
    }))

  const byToken = (tx: Tx, aal: string | null) => tx.json({ aal, ip: null, user_agent: null, request_id: 'r' })
  const required = async (tx: Tx, userId: string, sessionId: string, aal2: boolean) =>
    (
      await refusal(
        tx,
        (sp) => sp`select private.require_account(${userId}, ${sessionId}, ${aal2}, ${byToken(tx, 'aal2')})`,
      )
    ).code

  test.each(states)(
    'require_account tells who comes with the service role that an account %s',
    (_why, expected, change) =>
      rolledBack(async (tx) => {
        const { id, sessionId } = await newAccount(tx)
        await tx`select private.require_account(${id}, ${sessionId}), private.require_account(${id}, ${sessionId}, true)`

        await change(tx, id)

        expect(await required(tx, id, sessionId, true)).toBe(expected)
        // The gateway's word for it.
        expect(await required(tx, id, sessionId, false)).toBe(
          expected === 'insufficient_aal' ? 'mfa_required' : expected,
        )
      }),
  )

  test("require_account refuses somebody else's session, and the team without a second factor where it counts", () =>
    rolledBack(async (tx) => {
      const [admin, other] = [await newAccount(tx), await newAccount(tx)]
      await tx`update public.profiles set role = 'support' where id = ${admin.id}`

      expect(await required(tx, admin.id, other.sessionId, false)).toBe('invalid_api_key')
      expect(await required(tx, crypto.randomUUID(), other.sessionId, false)).toBe('invalid_api_key')
      expect(await required(tx, admin.id, admin.sessionId, true)).toBe('insufficient_aal')
      await tx`select private.require_account(${admin.id}, ${admin.sessionId})`
      await tx`update auth.sessions set aal = 'aal2' where id = ${admin.sessionId}`
      await tx`select private.require_account(${admin.id}, ${admin.sessionId}, true, ${byToken(tx, 'aal2')})`
    }))

  test.each([
    ['aal1', 'aal2'],
    ['aal2', 'aal1'],
    [null, 'aal2'],
    ['aal2', null],
    [null, null],
  ])('a factor is not taken for used when the token says %s and the session %s', (token, session) =>
    rolledBack(async (tx) => {
      const { id, sessionId } = await newAccount(tx)
      await addFactor(tx, id)
      await tx`update auth.sessions set aal = ${session} where id = ${sessionId}`
      const claims = { role: 'authenticated', sub: id, session_id: sessionId, ...(token && { aal: token }) }

      expect(
        (
          await refusal(
            tx,
            (sp) => sp`select private.require_account(${id}, ${sessionId}, true, ${byToken(tx, token)})`,
          )
        ).code,
      ).toBe('insufficient_aal')
      await tx`select set_config('request.jwt.claims', ${JSON.stringify(claims)}, true)`
      expect((await refusal(tx, (sp) => sp`select private.require_user()`)).code).toBe('insufficient_aal')
      expect((await refusal(tx, (sp) => sp`select private.require_account(${id}, ${sessionId}, true)`)).code).toBe(
        'insufficient_aal',
      )
    }),
  )
})

describe('admins', () => {
  const mayAct = (tx: Tx, userId: string, claims: object) =>
    asUser(tx, userId, (as) => as`select public.revoke_all_sessions(${userId})`, claims)

  test('a user, and an admin without the second factor, are refused', async () => {
    await rolledBack(async (tx) => {
      const user = await newAccount(tx)
      const admin = await newAccount(tx)
      await tx`update public.profiles set role = 'admin' where id = ${admin.id}`

      expect((await refusal(tx, (sp) => mayAct(sp, user.id, {}))).code).toBe('not_allowed')
      expect((await refusal(tx, (sp) => mayAct(sp, user.id, { user_role: 'admin' }))).code).toBe('not_allowed')
      expect((await refusal(tx, (sp) => mayAct(sp, admin.id, {}))).code).toBe('insufficient_aal')
      expect((await refusal(tx, (sp) => mayAct(sp, admin.id, { aal: 'aal2' }))).code).toBe('insufficient_aal')
    })
  })

  test('an admin at aal2 and the service role end all sessions of an account', async () => {
    await rolledBack(async (tx) => {
      const [admin, user] = [await newAccount(tx), await newAccount(tx)]
      await tx`update public.profiles set role = 'admin' where id = ${admin.id}`
      await tx`update auth.sessions set aal = 'aal2' where id = ${admin.sessionId}`
      await newSession(tx, user.id)

      const [byAdmin] = await asUser(tx, admin.id, (as) => as`select public.revoke_all_sessions(${user.id}) as n`, {
        aal: 'aal2',
      })
      await newSession(tx, user.id)
      const [byService] = await asRole(
        tx,
        'service_role',
        { role: 'service_role' },
        (as) => as`
        select public.revoke_all_sessions(${user.id}) as n`,
      )
      const unknown = await refusal(tx, (sp) =>
        asRole(
          sp,
          'service_role',
          { role: 'service_role' },
          (as) => as`
        select public.revoke_all_sessions(${crypto.randomUUID()})`,
        ),
      )

      expect([byAdmin?.n, byService?.n, unknown.code]).toEqual([2, 1, 'not_found'])
    })
  })
})

describe('devices', () => {
  const register = (tx: Tx, userId: string, device: string, claims: object = {}) =>
    asUser(tx, userId, (as) => as`select public.register_device(${device}, 'Phone', 'ios')`, claims)

  test.each([
    ['', 'Phone', 'ios'],
    ['d', '', 'ios'],
    ['d', 'Phone', 'toaster'],
    ['d'.repeat(201), 'Phone', 'ios'],
    [null, 'Phone', 'ios'],
  ])('device_id %j, name %j, type %j is refused', async (device, name, type) => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(sp, id, (as) => as`select public.register_device(${device}, ${name}, ${type})`),
      )

      expect(refused.code).toBe('invalid_request_error')
    })
  })

  test('the first device is silent, every other new one is a security event and a notification', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      await register(tx, id, 'one')
      await register(tx, id, 'one')
      expect(await eventsOf(tx, id)).toEqual([])
      await register(tx, id, 'two')

      expect(await eventsOf(tx, id)).toEqual(['new_device medium'])
      expect(await tx`select type from public.notifications where user_id = ${id}`).toMatchObject([
        { type: 'new_device' },
      ])
    })
  })

  test('a device has one live session: the older one ends, those of other devices and users stay', async () => {
    await rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      await register(tx, owner.id, 'one')
      await register(tx, other.id, 'one')
      const [elsewhere, newer] = [await newSession(tx, owner.id), await newSession(tx, owner.id)]
      await register(tx, owner.id, 'two', { session_id: elsewhere })

      await register(tx, owner.id, 'one', { session_id: newer })

      const there = await Promise.all([owner.sessionId, newer, elsewhere, other.sessionId].map((id) => isThere(tx, id)))
      expect(there).toEqual([false, true, true, true])
    })
  })

  test('ten sign-ins of one device at the same time leave one session', async () => {
    await racing(10, async (sql, accounts) => {
      const { id } = await accounts()
      const sessions = Array.from({ length: 10 }, () => crypto.randomUUID())
      for (const session of sessions) await addSession(sql, id, { id: session })

      await together(10, (i) => sql.begin((tx) => register(tx, id, 'one', { session_id: sessions[i] })))

      const left = await sql`select id from auth.sessions where id = any(${sessions})`
      const [device] = await sql`select session_id from public.devices where user_id = ${id}`
      expect(left.map((row) => row.id)).toEqual([device?.session_id])
    })
  })

  test('only the last sessions.max_devices_per_user devices are remembered', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`update private.settings set value = '2' where key = 'sessions.max_devices_per_user'`
      await tx`insert into public.devices (user_id, device_id, name, type, last_active_at) values
        (${id}, 'old', 'x', 'web', now() - interval '2 days'), (${id}, 'newer', 'x', 'web', now() - interval '1 day')`

      await register(tx, id, 'newest')

      const rows = await tx`select device_id from public.devices where user_id = ${id} order by last_active_at`
      expect(rows.map((row) => row.device_id)).toEqual(['newer', 'newest'])
    })
  })

  test('a new country warns where a header names one, and no header is believed while none is set', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const from = async (country: string) => {
        await tx`select set_config('request.headers', ${JSON.stringify({ 'cf-ipcountry': country })}, true)`
        await register(tx, id, 'one')
      }
      await from('DE')
      await from('FR')
      expect(await eventsOf(tx, id)).toEqual([])

      await tx`update private.settings set value = '"cf-ipcountry"' where key = 'sessions.country_header'`
      await from('DE')
      await from('FR')

      expect(await eventsOf(tx, id)).toEqual(['new_country medium'])
    })
  })
})

describe('the list of sessions', () => {
  test("another's session and none at all are not found alike, and stay", async () => {
    await rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      const revoke = (id: string) =>
        refusal(tx, (sp) => asUser(sp, owner.id, (as) => as`select public.revoke_my_session(${id})`))

      expect(await revoke(other.sessionId)).toEqual(await revoke(crypto.randomUUID()))
      expect(await isThere(tx, other.sessionId)).toBe(true)
    })
  })

  test('shows the live ones with device and readable client, the current first', async () => {
    await rolledBack(async (tx) => {
      const [owner, other] = [await newAccount(tx), await newAccount(tx)]
      const second = await newSession(tx, owner.id, '192.0.2.7', 'curl/8.5.0')
      await addSession(tx, owner.id, { notAfter: new Date(0) })
      await tx`insert into public.devices (user_id, device_id, name, type, session_id) values
        (${owner.id}, 'd', 'Desk', 'desktop', ${second}), (${other.id}, 'd', 'Spy', 'web', ${second})`

      const rows = await asUser(tx, owner.id, (as) => as`select * from public.list_my_sessions()`, {
        session_id: owner.sessionId,
      })

      expect(rows).toMatchObject([
        { session_id: owner.sessionId, device_id: null, client: 'Unknown client', is_current: true },
        {
          session_id: second,
          device_name: 'Desk',
          device_type: 'desktop',
          ip: '192.0.2.7',
          client: 'Curl',
          is_current: false,
        },
      ])
    })
  })

  test('one is ended, then all others', async () => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await newAccount(tx)
      const others = [await newSession(tx, id), await newSession(tx, id), await newSession(tx, id)]
      const current = { session_id: sessionId }

      await asUser(tx, id, (as) => as`select public.revoke_my_session(${others[0] ?? ''})`, current)
      const [row] = await asUser(tx, id, (as) => as`select public.revoke_my_other_sessions() as n`, current)

      expect(row?.n).toBe(2)
      expect(await tx`select id from auth.sessions where user_id = ${id}`).toEqual([{ id: sessionId }])
    })
  })

  const chrome = 'AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0'
  test.each([
    [null, 'Unknown client'],
    ['  ', 'Unknown client'],
    ['Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0', 'Firefox on Windows'],
    ['Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0', 'Firefox on Linux'],
    [`Mozilla/5.0 (Windows NT 10.0; Win64; x64) ${chrome} Safari/537.36`, 'Chrome on Windows'],
    [`Mozilla/5.0 (Windows NT 10.0; Win64; x64) ${chrome} Safari/537.36 Edg/130.0.0.0`, 'Edge on Windows'],
    [`Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) ${chrome} Safari/537.36 OPR/115.0.0.0`, 'Opera on macOS'],
    [`Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) ${chrome} Safari/537.36`, 'Chrome on ChromeOS'],
    [`Mozilla/5.0 (Linux; Android 14; Pixel 8) ${chrome} Mobile Safari/537.36`, 'Chrome on Android'],
    [
      'Mozilla/5.0 (Linux; Android 13; SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/27.0 Chrome/125.0.0.0 Mobile Safari/537.36',
      'Samsung Internet on Android',
    ],
    [
      'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15',
      'Safari on macOS',
    ],
    [
      'Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1',
      'Safari on iPhone',
    ],
    [
      'Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/130.0.6723.90 Mobile/15E148 Safari/604.1',
      'Chrome on iPad',
    ],
    [
      'Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/132.0 Mobile/15E148 Safari/605.1.15',
      'Firefox on iPhone',
    ],
    [
      `Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Palisade/1.0 Chrome/128.0.0.0 Electron/32.0.0 Safari/537.36`,
      'Desktop app on Windows',
    ],
    ['Palisade/42 CFNetwork/1568.200.51 Darwin/24.1.0', 'App on Apple'],
    ['okhttp/4.12.0', 'App'],
    ['curl/8.5.0', 'Curl'],
    ['python-requests/2.32.3', 'Python'],
    ['node', 'Node'],
    ["<script>alert('x')</script>", 'Unknown client'],
  ])('%s is called %s', async (agent, name) => {
    await rolledBack(async (tx) => {
      const [row] = await tx`select private.client_name(${agent}::text) as name`

      expect(row?.name).toBe(name)
    })
  })
})

describe('a sign-in', () => {
  test('succeeds also where our triggers cannot do their work', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`delete from private.settings where key = 'sessions.max_per_user'`
      await tx`alter table private.known_networks add check (user_id <> ${tx.unsafe(`'${id}'`)})`

      expect(await isThere(tx, await newSession(tx, id, '192.0.2.7'))).toBe(true)
    })
  })

  test('beyond sessions.max_per_user ends the oldest session', async () => {
    await rolledBack(async (tx) => {
      const { id, sessionId } = await newAccount(tx)
      await tx`update private.settings set value = '2' where key = 'sessions.max_per_user'`
      await tx`update auth.sessions set created_at = now() - interval '1 hour' where id = ${sessionId}`

      const [second, third] = [await newSession(tx, id), await newSession(tx, id)]

      expect([await isThere(tx, sessionId), await isThere(tx, second), await isThere(tx, third)]).toEqual([
        false,
        true,
        true,
      ])
    })
  })

  test('thirty at the same time leave exactly twenty sessions', async () => {
    await racing(30, async (sql, accounts) => {
      const { id } = await accounts()

      await together(30, () => addSession(sql, id))

      expect(await sql`select count(*)::int from auth.sessions where user_id = ${id}`).toEqual([{ count: 20 }])
    })
  })

  test('from the first network is silent, from the same one too, from a new one a security event', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await newSession(tx, id, '192.0.2.7')
      await newSession(tx, id, '192.0.2.250')
      expect(await eventsOf(tx, id)).toEqual([])

      await newSession(tx, id, '2001:db8:1:2::1')
      await newSession(tx, id, '2001:db8:1:ffff::1')

      expect(await eventsOf(tx, id)).toEqual(['new_network medium'])
      const networks = await tx`select network::text from private.known_networks where user_id = ${id} order by 1`
      expect(networks.map((row) => row.network)).toEqual(['192.0.2.0/24', '2001:db8:1::/48'])
    })
  })

  test('networks of more than a year ago are forgotten', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await newSession(tx, id, '192.0.2.7')
      await newSession(tx, id, '198.51.100.7')
      await tx`update private.known_networks set last_seen_at = now() - interval '1 year 1 second' where network = '192.0.2.0/24' and user_id = ${id}`

      await tx`select private.delete_old_networks()`

      expect(await tx`select network::text from private.known_networks where user_id = ${id}`).toEqual([
        { network: '198.51.100.0/24' },
      ])
    })
  })
})

describe('changes that a user should hear of', () => {
  test('a password: the first is silent, every other one warns', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const set = (hash: string) => tx`update auth.users set encrypted_password = ${hash} where id = ${id}`
      await set('one')
      await set('one')
      expect(await eventsOf(tx, id)).toEqual([])

      await set('two')

      expect(await eventsOf(tx, id)).toEqual(['password_changed medium'])
    })
  })

  test('a role', async () => {
    await rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      await tx`update public.profiles set role = 'support' where id = ${id}`

      expect(await eventsOf(tx, id)).toEqual(['role_changed high'])
      expect(await tx`select data from public.notifications where user_id = ${id}`).toEqual([
        { data: { from: 'user', to: 'support' } },
      ])
    })
  })

  test('a removed factor; an unverified one, and the account going with all it has, are silent', async () => {
    await rolledBack(async (tx) => {
      const [owner, leaver] = [await newAccount(tx), await newAccount(tx)]
      await addFactor(tx, leaver.id)
      await tx`delete from auth.users where id = ${leaver.id}`
      const unverified = await addFactor(tx, owner.id)
      await tx`update auth.mfa_factors set status = 'unverified' where id = ${unverified}`
      await tx`delete from auth.mfa_factors where id = ${unverified}`
      expect(await eventsOf(tx, owner.id)).toEqual([])

      const factor = await addFactor(tx, owner.id)
      await tx`delete from auth.mfa_factors where id = ${factor}`

      expect(await eventsOf(tx, owner.id)).toEqual(['mfa_removed high'])
    })
  })
})

describe('refresh tokens', () => {
  const issue = (tx: Tx, account: { id: string; sessionId: string }, token: string) => tx`
    insert into auth.refresh_tokens (token, user_id, session_id, revoked, created_at, updated_at)
    values (${token}, ${account.id}, ${account.sessionId}, false, now(), now())`
  const revoke = (tx: Tx, sessionId: string) => tx`
    update auth.refresh_tokens set revoked = true where session_id = ${sessionId} and not revoked`
  /** What a commit does. */
  const commit = async (tx: Tx) => {
    await tx`set constraints all immediate`
    await tx`set constraints all deferred`
  }

  test('a family revoked without a new token ends the session and raises refresh_token_reuse once', async () => {
    await rolledBack(async (tx) => {
      const account = await newAccount(tx)
      for (const token of ['a', 'b']) await issue(tx, account, token)
      await commit(tx)

      await revoke(tx, account.sessionId)
      await commit(tx)

      expect(await isThere(tx, account.sessionId)).toBe(false)
      expect(await eventsOf(tx, account.id)).toEqual(['refresh_token_reuse high'])
    })
  })

  test('a rotation and a sign-out are no reuse', async () => {
    await rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await issue(tx, account, 'a')
      await revoke(tx, account.sessionId)
      await issue(tx, account, 'b')
      await commit(tx)
      expect(await isThere(tx, account.sessionId)).toBe(true)

      await revoke(tx, account.sessionId)
      await tx`delete from auth.sessions where id = ${account.sessionId}`
      await commit(tx)

      expect(await eventsOf(tx, account.id)).toEqual([])
    })
  })
})
