import { describe, expect, test } from 'vitest'
import {
  adult,
  asAccount,
  askHook,
  createInvite,
  insertAndCommit,
  insertUser,
  newcomer,
  profileOf,
  setSetting,
  signUp,
  takenPlaces,
} from './registration-support.ts'
import { connect, creditsOf, refusal, rolledBack, type Sql, type Tx, together } from './support.ts'

const consentsOf = (tx: Tx, id: string) => tx`
  select kind, version, granted, host(ip) as ip, created_at is not null as dated from public.consents
  where user_id = ${id} order by kind`
const confirmEmail = (tx: Tx, id: string) => tx`
  update auth.users set email_confirmed_at = now(), email = ${`${id}@example.com`}, is_anonymous = false where id = ${id}`
/** A birth date that many years and days ago. */
const born = async (tx: Tx, years: number, days = 0) => {
  const [row] = await tx`select (current_date - make_interval(years => ${years}, days => ${days}))::date::text as day`
  return String(row?.day)
}

describe('the phase', () => {
  test.each(['closed', 'opne', 7, null])('%j lets nobody in', (phase) =>
    rolledBack(async (tx) => {
      // Values that no phase has are refused where they are written; should one be there all the same, nobody gets in by it.
      await tx`alter table private.settings disable trigger tg_settings__fit`
      await setSetting(tx, 'launch.phase', phase)

      const refused = await askHook(tx, newcomer())

      expect(refused).toEqual({ http_code: 403, message: 'Sign-up is closed at the moment.' })
    }),
  )

  test('"closed" is said first, whatever else is wrong', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'closed')

      expect((await askHook(tx, newcomer({ data: {} })))?.message).toMatch(/closed/)
    }))

  test('"open" lets everybody in and keeps nobody waiting for a lock', () =>
    rolledBack(async (tx) => {
      const user = newcomer()

      expect(await signUp(tx, user)).toBeNull()

      const [locks] = await tx`
        select count(*)::int as n from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()`
      expect(locks?.n).toBe(0)
      expect(await profileOf(tx, user.id)).toMatchObject({ status: 'pending', birth_date: '1990-04-01' })
    }))
})

describe('the data', () => {
  const large = (bytes: number) => ({ ...adult, note: 'x'.repeat(bytes) })
  const store = (tx: Tx, id: string, data: object) =>
    tx`update auth.users set raw_user_meta_data = ${JSON.stringify(data)}::text::jsonb where id = ${id}`
  const words = { message: expect.stringMatching(/metadata may have at most 8192 bytes/) }

  test('of a sign-up may be 8 kB, as the setting says, and not more', () =>
    rolledBack(async (tx) => {
      expect(await askHook(tx, newcomer({ data: large(8000) }))).toBeNull()
      expect(await askHook(tx, newcomer({ data: large(8192) }))).toEqual({
        http_code: 403,
        message: 'Sign-up data may have at most 8192 bytes.',
      })
      await setSetting(tx, 'registration.max_data_bytes', 20_000)
      expect(await askHook(tx, newcomer({ data: large(8192) }))).toBeNull()
    }))

  test('are no larger when no hook is asked, nor when a user changes them later', () =>
    rolledBack(async (tx) => {
      const user = newcomer()
      await signUp(tx, user)

      expect(await refusal(tx, (sp) => insertUser(sp as Tx, newcomer({ data: large(900_000) })))).toMatchObject(words)
      expect(await refusal(tx, (sp) => store(sp as Tx, user.id, large(10_000)))).toMatchObject(words)
      await store(tx, user.id, large(8000))
    }))

  test('at the limit leave room for what Auth adds at confirmation, and what was larger before may become smaller', () =>
    rolledBack(async (tx) => {
      const user = newcomer({ data: large(8130) })
      expect(await signUp(tx, user)).toBeNull()
      await store(tx, user.id, { ...large(8130), sub: user.id, email: `${'e'.repeat(255)}@x`, email_verified: true })
      await setSetting(tx, 'registration.max_data_bytes', 100_000)
      await store(tx, user.id, large(90_000))
      await setSetting(tx, 'registration.max_data_bytes', 8192)

      await store(tx, user.id, large(80_000))
    }))
})

describe('the age', () => {
  test.each([
    undefined,
    null,
    '',
    'yesterday',
    '2001-02-29',
    '01.04.1990',
    '1990-4-1',
    '1899-12-31',
    '2999-01-01',
    'infinity',
    19900401,
    ['1990-04-01'],
    { year: 1990 },
  ])('a birth date of %j is refused', (birth_date) =>
    rolledBack(async (tx) => {
      const refused = await askHook(tx, newcomer({ data: { ...adult, birth_date } }))

      expect(refused).toMatchObject({ http_code: 403, message: expect.stringContaining('birth_date') })
    }),
  )

  test('one day under 13 is refused, 13 today is old enough', () =>
    rolledBack(async (tx) => {
      const tooYoung = newcomer({ data: { ...adult, birth_date: await born(tx, 13, -1) } })
      const oldEnough = newcomer({ data: { ...adult, birth_date: await born(tx, 13) } })

      expect(await askHook(tx, tooYoung)).toEqual({
        http_code: 403,
        message: 'You must be at least 13 years old to sign up.',
      })
      expect(await askHook(tx, oldEnough)).toBeNull()
    }))

  test('the minimum is a setting', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'registration.minimum_age', 16)

      expect((await askHook(tx, newcomer({ data: { ...adult, birth_date: await born(tx, 15) } })))?.message).toMatch(
        /16/,
      )
    }))

  test('a birth date need not be given when the setting says so, but one that is too young still counts', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'registration.require_birth_date', false)

      expect(await askHook(tx, newcomer({ data: { accept_terms: true } }))).toBeNull()
      expect(await askHook(tx, newcomer({ data: { ...adult, birth_date: await born(tx, 12) } }))).not.toBeNull()
    }))
})

describe('a parked account', () => {
  const park = async (tx: Tx, confirmed = false) => {
    await setSetting(tx, 'registration.under_age', 'park')
    const user = newcomer({ data: { ...adult, birth_date: await born(tx, 12) }, confirmed })
    expect(await signUp(tx, user)).toBeNull()
    return user.id
  }
  const consent = (tx: Tx, id: string, note = 'Mother, by phone') =>
    tx`select public.record_guardian_consent(${id}, ${note})`

  test.each([false, true])('stays pending whether or not its e-mail is verified (at sign-up: %j)', (confirmed) =>
    rolledBack(async (tx) => {
      const id = await park(tx, confirmed)

      await confirmEmail(tx, id)

      expect(await profileOf(tx, id)).toMatchObject({ status: 'pending', parked_reason: 'guardian_consent' })
    }),
  )

  test('does not become active by a consent that says nothing, and nobody can consent for an account that is not there', () =>
    rolledBack(async (tx) => {
      const id = await park(tx)

      expect((await refusal(tx, (sp) => consent(sp, id, '  '))).code).toBe('invalid_request_error')
      expect((await refusal(tx, (sp) => consent(sp, crypto.randomUUID()))).code).toBe('not_found')
      expect(await profileOf(tx, id)).toMatchObject({ parked_reason: 'guardian_consent' })
    }))

  test('cannot free itself', () =>
    rolledBack(async (tx) => {
      const id = await park(tx)

      expect((await refusal(tx, (sp) => asAccount(sp as Tx, id, (as) => consent(as, id)))).sqlstate).toBe('PGRST')
    }))

  test('becomes active by the guardian and the e-mail, in either order, and the consent is kept once', () =>
    rolledBack(async (tx) => {
      const [first, second] = [await park(tx), await park(tx)]

      await consent(tx, first)
      expect(await profileOf(tx, first)).toMatchObject({ status: 'pending', parked_reason: null })
      await confirmEmail(tx, first)
      await confirmEmail(tx, second)
      await consent(tx, second)
      await consent(tx, second)

      expect(await profileOf(tx, first)).toMatchObject({ status: 'active' })
      expect(await profileOf(tx, second)).toMatchObject({ status: 'active', parked_reason: null })
      expect((await consentsOf(tx, second)).filter((row) => row.kind === 'guardian')).toHaveLength(1)
    }))
})

describe('the terms', () => {
  test.each([undefined, false, null, 'true', 1, [true]])('accept_terms of %j is refused', (accept_terms) =>
    rolledBack(async (tx) => {
      const refused = await askHook(tx, newcomer({ data: { ...adult, accept_terms } }))

      expect(refused).toMatchObject({ http_code: 403, message: expect.stringContaining('accept_terms') })
    }),
  )

  test('are recorded with the newest published versions, time and IP', () =>
    rolledBack(async (tx) => {
      await tx`
        insert into public.legal_documents (kind, version, url, published_at) values
          ('terms', '2', 'x', now()), ('terms', '3', 'x', now() + interval '1 day')`
      const user = newcomer({ ip: '2001:db8::7' })

      await signUp(tx, user)

      expect([...(await consentsOf(tx, user.id))]).toEqual([
        { kind: 'privacy', version: '1', granted: true, ip: '2001:db8::7', dated: true },
        { kind: 'terms', version: '2', granted: true, ip: '2001:db8::7', dated: true },
      ])
    }))

  test('leave no IP behind but the one in the consent', () =>
    rolledBack(async (tx) => {
      const user = newcomer()

      await signUp(tx, user)

      const [row] =
        await tx`select ip, confirmed_at is not null as confirmed from private.registrations where user_id = ${user.id}`
      expect(row).toEqual({ ip: null, confirmed: true })
    }))

  test.each([null, 'not an address', ''])('an IP of %j breaks nothing', (ip) =>
    rolledBack(async (tx) => {
      const user = newcomer({ ip })

      expect(await signUp(tx, user)).toBeNull()

      expect(await consentsOf(tx, user.id)).toHaveLength(2)
    }),
  )

  test('a new version is accepted with accept_terms(), once', () =>
    rolledBack(async (tx) => {
      const user = newcomer({ confirmed: true })
      await signUp(tx, user)
      await tx`insert into public.legal_documents (kind, version, url) values ('terms', '2', 'x')`
      const accept = () => asAccount(tx, user.id, (as) => as`select kind, version, id from public.accept_terms()`)

      const first = await accept()
      const second = await accept()

      expect(first.map((row) => [row.kind, row.version])).toEqual([
        ['privacy', '1'],
        ['terms', '2'],
      ])
      expect(second).toEqual(first)
    }))

  test.each(['update public.consents set granted = false', 'delete from public.consents', 'truncate public.consents'])(
    'not even the owner of the data can "%s"',
    (statement) =>
      rolledBack(async (tx) => {
        const user = newcomer()
        await signUp(tx, user)

        const refused = await refusal(tx, (sp) =>
          sp.unsafe(`${statement}${statement.startsWith('truncate') ? '' : ` where user_id = '${user.id}'`}`),
        )

        expect(refused.sqlstate).toBe('42501')
      }),
  )
})

test('the do-not-sell choice is kept with every change, and shown in the profile', () =>
  rolledBack(async (tx) => {
    const user = newcomer({ confirmed: true })
    await signUp(tx, user)

    for (const value of [true, true, false])
      await asAccount(tx, user.id, (as) => as`select public.set_do_not_sell(${value})`)

    const rows =
      await tx`select granted from public.consents where user_id = ${user.id} and kind = 'do_not_sell' order by id`
    expect(rows.map((row) => row.granted)).toEqual([true, false])
    expect((await profileOf(tx, user.id))?.do_not_sell).toBe(false)
    expect(
      (await refusal(tx, (sp) => asAccount(sp as Tx, user.id, (as) => as`select public.set_do_not_sell(null)`))).status,
    ).toBe(400)
  }))

describe('invites', () => {
  const inviteOnly = async (tx: Tx, maxUses = 1) => {
    await setSetting(tx, 'launch.phase', 'invite')
    return createInvite(tx, maxUses)
  }
  const withCode = (invite_code: unknown) => newcomer({ data: { ...adult, invite_code } })

  test.each([undefined, null, '', '  '])('no code (%j) is refused', (code) =>
    rolledBack(async (tx) => {
      await inviteOnly(tx)

      expect(await askHook(tx, withCode(code))).toEqual({ http_code: 403, message: 'Sign-up needs an invite code.' })
    }),
  )

  test.each(['0000-0000-0000-0000', '-', 'x'.repeat(8000), "' or true --", ['a'], { a: 1 }, 12, true])(
    'a code that was never made is refused',
    (code) =>
      rolledBack(async (tx) => {
        await inviteOnly(tx)

        expect((await askHook(tx, withCode(code)))?.message).toMatch(/unknown, used up or expired/)
      }),
  )

  test.each([
    ['revoked', (tx: Tx, id: string) => tx`select public.revoke_invite(${id})`],
    ['expired', (tx: Tx, id: string) => tx`update private.invites set expires_at = now() where id = ${id}`],
  ])('a %s one is refused', (_state, spoil) =>
    rolledBack(async (tx) => {
      const invite = await inviteOnly(tx)
      await spoil(tx, invite.id)

      expect((await askHook(tx, withCode(invite.code)))?.message).toMatch(/unknown, used up or expired/)
    }),
  )

  test('one that is used up is refused', () =>
    rolledBack(async (tx) => {
      const { code } = await inviteOnly(tx, 2)

      const answers = [
        await signUp(tx, withCode(code)),
        await signUp(tx, withCode(code)),
        await signUp(tx, withCode(code)),
      ]

      expect(answers).toEqual([null, null, 'This invite code is unknown, used up or expired.'])
    }))

  test('a sign-up that failed on another gate uses nothing up', () =>
    rolledBack(async (tx) => {
      const { code } = await inviteOnly(tx)

      await askHook(tx, newcomer({ data: { invite_code: code } }))

      expect(await signUp(tx, withCode(code))).toBeNull()
    }))

  test('a reservation whose user never came frees its use after a minute, and not before', () =>
    rolledBack(async (tx) => {
      const { code } = await inviteOnly(tx)
      const lost = withCode(code)
      await askHook(tx, lost)
      const age = (seconds: number) => tx`
        update private.registrations set reserved_at = clock_timestamp() - ${seconds} * interval '1 second'
        where user_id = ${lost.id}`

      await age(50)
      expect(await askHook(tx, withCode(code))).not.toBeNull()
      await age(61)
      expect(await askHook(tx, withCode(code))).toBeNull()

      expect(await tx`select from private.registrations where user_id = ${lost.id}`).toHaveLength(0)
    }))

  test('a user who comes after the minute is let in only if there is still a use', () =>
    rolledBack(async (tx) => {
      const { code } = await inviteOnly(tx)
      const [late, quick] = [withCode(code), withCode(code)]
      await askHook(tx, late)
      await tx`update private.registrations set reserved_at = clock_timestamp() - interval '61 seconds' where user_id = ${late.id}`
      await signUp(tx, quick)

      const refused = await refusal(tx, (sp) => insertAndCommit(sp as Tx, late))

      expect(refused).toMatchObject({ sqlstate: 'P0001', message: expect.stringMatching(/used up/) })
    }))

  test('case, dashes and blanks of a code do not count, and O is 0', () =>
    rolledBack(async (tx) => {
      const { code } = await inviteOnly(tx, 3)

      const typed = [
        code.toLowerCase(),
        ` ${code.replaceAll('-', ' ')} `,
        code.replaceAll('0', 'O').replaceAll('1', 'l'),
      ]

      for (const text of typed) expect(await signUp(tx, withCode(text))).toBeNull()
    }))

  test('are listed in pages that go on after the last of the page before', () =>
    rolledBack(async (tx) => {
      const made: string[] = []
      for (let n = 0; n < 5; n += 1) made.unshift((await createInvite(tx)).id)

      const first = await tx`select id from public.list_invites(page_size => 2)`
      const next = await tx`select id from public.list_invites(${first[1]?.id}, 3)`

      expect([...first, ...next].map(({ id }) => id)).toEqual(made)
    }))

  test('the code has 80 bits, is told once and kept as a hash', () =>
    rolledBack(async (tx) => {
      const { id, code } = await inviteOnly(tx, 5)
      await signUp(tx, withCode(code))

      const [row] = await tx`select to_jsonb(i)::text as text from private.invites i where id = ${id}`
      const [listed] = await tx`select * from public.list_invites() where id = ${id}`

      expect(code).toMatch(/^([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}$/)
      expect(row?.text).not.toContain(code)
      expect(JSON.stringify(listed)).not.toContain(code)
      expect(listed).toMatchObject({ label: 'test', max_uses: 5, uses: '1' })
    }))

  test.each([
    ['', 1, null],
    ['x', 0, null],
    ['x', null, null],
    ['x', 1, '2020-01-01'],
  ])('one with label %j, %j uses and an expiry of %j cannot be made', (label, uses, expires) =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => sp`select public.create_invite(${label}, ${uses}, ${expires})`)

      expect(refused.code).toBe('invalid_request_error')
    }),
  )

  test('an unknown one cannot be revoked; a revoked one can again', () =>
    rolledBack(async (tx) => {
      const { id } = await createInvite(tx)
      const revoke = (sql: Tx, invite: string) => sql`select public.revoke_invite(${invite})`
      await revoke(tx, id)
      await revoke(tx, id)

      expect((await refusal(tx, (sp) => revoke(sp as Tx, crypto.randomUUID()))).code).toBe('not_found')
    }))

  test('the use of an erased account stays used', () =>
    rolledBack(async (tx) => {
      const { code } = await inviteOnly(tx)
      const user = withCode(code)
      await signUp(tx, user)

      await tx`delete from auth.users where id = ${user.id}`

      expect(await askHook(tx, withCode(code))).not.toBeNull()
    }))
})

describe('the cap', () => {
  test('a full one refuses; a deleted account frees its place', () =>
    rolledBack(async (tx) => {
      const user = newcomer()
      await signUp(tx, user)
      await setSetting(tx, 'launch.phase', 'capped')
      await setSetting(tx, 'launch.user_cap', await takenPlaces(tx))

      expect(await askHook(tx, newcomer())).toEqual({ http_code: 403, message: 'All places are taken for now.' })
      await tx`select public.delete_account(${user.id}, 'test')`

      expect(await signUp(tx, newcomer())).toBeNull()
      expect(await askHook(tx, newcomer())).not.toBeNull()
    }))

  test('a cap of none lets nobody in', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'capped')
      await setSetting(tx, 'launch.user_cap', 0)

      expect(await askHook(tx, newcomer())).not.toBeNull()
    }))
})

describe('users who come without the hook', () => {
  const admitted = async (tx: Tx, user: ReturnType<typeof newcomer>) => {
    const before = await tx`select from auth.users where id = ${user.id}`
    expect(before).toHaveLength(0)
    return insertAndCommit(tx, user).then(() => profileOf(tx, user.id))
  }
  const refusedAs = async (tx: Tx, user: ReturnType<typeof newcomer>) =>
    (await refusal(tx, (sp) => insertAndCommit(sp as Tx, user))).message

  test('are refused while sign-up is closed, also when their own metadata says who made them', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'closed')

      expect(await refusedAs(tx, newcomer())).toMatch(/closed/)
      expect(await refusedAs(tx, newcomer({ data: { ...adult, registered_by: 'admin' } }))).toMatch(/closed/)
      expect(await refusedAs(tx, newcomer({ appMetadata: { registered_by: 'me' } }))).toMatch(/closed/)
    }))

  test('need an invite code while sign-up is by invitation', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'invite')
      const { code } = await createInvite(tx)

      expect(await refusedAs(tx, newcomer())).toMatch(/needs an invite code/)
      expect(await admitted(tx, newcomer({ data: { invite_code: code } }))).toMatchObject({ role: 'user' })
      expect(await refusedAs(tx, newcomer({ data: { invite_code: code } }))).toMatch(/used up/)
    }))

  test.each(['admin', 'import'])('are let in while it is closed or by invitation when app_metadata says %s', (by) =>
    rolledBack(async (tx) => {
      for (const phase of ['closed', 'invite']) {
        await setSetting(tx, 'launch.phase', phase)
        const user = newcomer({ data: {}, appMetadata: { registered_by: by }, confirmed: true })

        expect(await admitted(tx, user)).toMatchObject({ status: 'active', birth_date: null })
        expect(await consentsOf(tx, user.id)).toHaveLength(0)
      }
    }),
  )

  test.each([{}, { registered_by: 'admin' }])('count towards the cap (%j)', (appMetadata) =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'capped')
      await setSetting(tx, 'launch.user_cap', (await takenPlaces(tx)) + 1)

      await admitted(tx, newcomer({ appMetadata }))

      expect(await refusedAs(tx, newcomer({ appMetadata }))).toMatch(/All places are taken/)
    }),
  )

  test.each([{}, { registered_by: 'import' }])('are refused when they are too young (%j)', (appMetadata) =>
    rolledBack(async (tx) => {
      const user = newcomer({ data: { birth_date: await born(tx, 12) }, appMetadata })

      expect(await refusedAs(tx, user)).toMatch(/at least 13/)
    }),
  )

  test('are parked when they are too young and the setting says so', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'registration.under_age', 'park')
      const data = { birth_date: await born(tx, 12) }

      const profile = await admitted(tx, newcomer({ data, appMetadata: { registered_by: 'import' }, confirmed: true }))

      expect(profile).toMatchObject({ status: 'pending', parked_reason: 'guardian_consent' })
    }))

  test('need no birth date and no terms while sign-up is open; accepted terms are recorded', () =>
    rolledBack(async (tx) => {
      const [without, withTerms] = [newcomer({ data: {} }), newcomer({ data: { accept_terms: true } })]
      await admitted(tx, without)
      await admitted(tx, withTerms)

      expect(await consentsOf(tx, without.id)).toHaveLength(0)
      expect(await consentsOf(tx, withTerms.id)).toHaveLength(2)
    }))

  test('a user who is gone again at the end of the transaction breaks nothing', () =>
    rolledBack(async (tx) => {
      const user = newcomer()
      await insertUser(tx, user)
      await tx`delete from auth.users where id = ${user.id}`

      await tx`set constraints all immediate`

      expect(await tx`select from private.registrations where user_id = ${user.id}`).toHaveLength(0)
    }))
})

describe('anonymous users', () => {
  const anonymous = (data = {}) => newcomer({ isAnonymous: true, data })
  const signedUp = async (tx: Tx, data = {}) => {
    const user = anonymous(data)
    expect(await signUp(tx, user)).toBeNull()
    return user.id
  }
  const complete = (tx: Tx, id: string, birthDate: string | null, terms: boolean) =>
    asAccount(tx, id, (as) => as`select (public.complete_registration(${birthDate}, ${terms})).*`)

  test('are refused while sign-up is closed', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'closed')

      expect((await askHook(tx, anonymous()))?.message).toMatch(/closed/)
    }))

  test('need neither birth date nor terms, are pending and get no credits', () =>
    rolledBack(async (tx) => {
      const id = await signedUp(tx)

      expect(await profileOf(tx, id)).toMatchObject({ status: 'pending', birth_date: null })
      expect(await creditsOf(tx, id)).toEqual({ balance: 0, held: 0 })
    }))

  test('who verify an address without birth date and terms are parked until both are there', () =>
    rolledBack(async (tx) => {
      const id = await signedUp(tx)

      await confirmEmail(tx, id)
      expect(await profileOf(tx, id)).toMatchObject({ status: 'pending', parked_reason: 'incomplete' })
      expect((await refusal(tx, (sp) => complete(sp as Tx, id, 'x', true))).code).toBe('invalid_request_error')
      await complete(tx, id, '1990-04-01', false)
      expect(await profileOf(tx, id)).toMatchObject({ status: 'pending', parked_reason: 'incomplete' })
      await complete(tx, id, '1980-01-01', true)

      expect(await profileOf(tx, id)).toMatchObject({ status: 'active', parked_reason: null, birth_date: '1990-04-01' })
      expect(await consentsOf(tx, id)).toHaveLength(2)
    }))

  test('who turn out too young wait for a guardian', () =>
    rolledBack(async (tx) => {
      const id = await signedUp(tx)
      await confirmEmail(tx, id)

      await complete(tx, id, await born(tx, 12), true)

      expect(await profileOf(tx, id)).toMatchObject({ status: 'pending', parked_reason: 'guardian_consent' })
    }))

  test('who verify an address with everything in place are active and get the credits, once', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'credits.on_anonymous_sign_up', 5)
      const id = await signedUp(tx)
      await tx`update auth.users set raw_user_meta_data = ${tx.json(adult)} where id = ${id}`

      await confirmEmail(tx, id)
      await tx`update auth.users set email_confirmed_at = null where id = ${id}`
      await confirmEmail(tx, id)

      expect(await profileOf(tx, id)).toMatchObject({ status: 'active', parked_reason: null })
      expect(await creditsOf(tx, id)).toEqual({ balance: 105, held: 0 })
    }))

  test('an account that is complete cannot write its birth date again', () =>
    rolledBack(async (tx) => {
      const user = newcomer({ confirmed: true })
      await signUp(tx, user)

      await complete(tx, user.id, '1980-01-01', true)

      expect((await profileOf(tx, user.id))?.birth_date).toBe('1990-04-01')
    }))
})

describe('the hook', () => {
  test.each([{}, { user: null }, { user: { id: 'x' } }, { user: [] }, 'text', null, 7])(
    'answers an error, and does not raise, for an event like %j',
    (event) =>
      rolledBack(async (tx) => {
        const [row] = await tx`select private.before_user_created(${JSON.stringify(event)}::text::jsonb) as answer`

        expect(row?.answer.error).toMatchObject({ http_code: 403, message: expect.any(String) })
      }),
  )

  test.each([[[1, 2]], ['text'], [null]])('user_metadata like %j is no reason to raise', (data) =>
    rolledBack(async (tx) => {
      expect((await askHook(tx, newcomer({ data: data as object })))?.http_code).toBe(403)
    }),
  )

  test('may be called by the Auth service and by nobody else', () =>
    rolledBack(async (tx) => {
      const rows = await tx`
        select r as role from unnest(array['anon', 'authenticated', 'service_role', 'authenticator', 'supabase_auth_admin']) r
        where has_function_privilege(r, 'private.before_user_created(jsonb)', 'execute')
          and has_schema_privilege(r, 'private', 'usage')`

      expect(rows.map((row) => row.role)).toEqual(['supabase_auth_admin'])
    }))

  test('gives nothing that the metadata asks for beyond the personal columns', () =>
    rolledBack(async (tx) => {
      const wishes = {
        role: 'admin',
        plan_id: 'premium',
        plan: 'premium',
        status: 'active',
        credits: 9999,
        balance: 9999,
      }
      const user = newcomer({ data: { ...adult, ...wishes, parked_reason: null, registered_by: 'admin' } })

      await signUp(tx, user)

      expect(await profileOf(tx, user.id)).toMatchObject({ role: 'user', plan_id: 'free', status: 'pending' })
      expect(await creditsOf(tx, user.id)).toEqual({ balance: 0, held: 0 })
      await confirmEmail(tx, user.id)
      expect(await creditsOf(tx, user.id)).toEqual({ balance: 100, held: 0 })
    }))

  test('a time zone in other letters is stored as its name is spelled', () =>
    rolledBack(async (tx) => {
      const user = newcomer({ data: { ...adult, time_zone: 'america/argentina/BUENOS_AIRES' } })

      await signUp(tx, user)

      const name = 'America/Argentina/Buenos_Aires'
      expect(await profileOf(tx, user.id)).toMatchObject({ time_zone: name, quota_time_zone: name })
    }))

  test('language and time zone are taken over when they are real ones', () =>
    rolledBack(async (tx) => {
      const [real, unreal] = [
        newcomer({ data: { ...adult, locale: 'de-CH', time_zone: 'Europe/Zurich' } }),
        newcomer({ data: { ...adult, locale: '<b>', time_zone: 'Mars/Olympus' } }),
      ]
      await signUp(tx, real)
      await signUp(tx, unreal)

      expect(await profileOf(tx, real.id)).toMatchObject({ locale: 'de-CH', time_zone: 'Europe/Zurich' })
      expect(await profileOf(tx, unreal.id)).toMatchObject({ locale: 'en', time_zone: 'UTC' })
    }))
})

describe('an address that is confirmed', () => {
  const [first, later] = ['2027-01-01T10:00:00Z', '2027-01-01T10:05:00Z']
  /** As Auth does it: the first sign-up makes the user, each one sends a mail. */
  const attempt = async (tx: Tx, id: string, sentAt: string) =>
    tx`update auth.users set confirmation_sent_at = ${sentAt} where id = ${id}`
  const signUpWithPassword = async (tx: Tx, data: object = { ...adult, first_name: 'Mallory' }) => {
    const user = newcomer({ data })
    await signUp(tx, user)
    await tx`update auth.users set encrypted_password = 'hash of the first' where id = ${user.id}`
    await attempt(tx, user.id, first)
    return user.id
  }
  const confirm = async (tx: Tx, id: string) => {
    await confirmEmail(tx, id)
    await tx`update auth.users set raw_user_meta_data = raw_user_meta_data || '{"email_verified": true}' where id = ${id}`
    await tx`set constraints all immediate`
    await tx`set constraints all deferred`
  }
  const accountOf = async (tx: Tx, id: string) => {
    const [user] =
      await tx`select encrypted_password as password, raw_user_meta_data as data from auth.users where id = ${id}`
    const { status, parked_reason, first_name, birth_date } = (await profileOf(tx, id)) ?? {}
    return { ...user, status, parked_reason, first_name, birth_date, consents: (await consentsOf(tx, id)).length }
  }

  test('after two sign-ups has no password, name, birth date, terms or session of either, and says so', () =>
    rolledBack(async (tx) => {
      const id = await signUpWithPassword(tx)
      await attempt(tx, id, later)
      await tx`insert into auth.sessions (id, user_id, created_at) values (gen_random_uuid(), ${id}, now() - interval '1 hour')`

      await confirm(tx, id)

      expect(await accountOf(tx, id)).toEqual({
        ...{ password: null, data: { email_verified: true }, status: 'pending', parked_reason: 'incomplete' },
        ...{ first_name: null, birth_date: null, consents: 0 },
      })
      expect(await tx`select from auth.sessions where user_id = ${id}`).toHaveLength(0)
      const told = await tx`select type from public.notifications where user_id = ${id}`
      expect(told).toEqual([{ type: 'sign_ups_voided' }])
      const [entry] =
        await tx`select details from private.audit_log where user_id = ${id} and action = 'account.sign_ups_voided'`
      expect(entry?.details).toMatchObject({ attempts: 2, consents: [{ kind: 'privacy' }, { kind: 'terms' }] })
    }))

  test('is completed by its owner, whose acceptance counts from then on', () =>
    rolledBack(async (tx) => {
      const id = await signUpWithPassword(tx)
      await attempt(tx, id, later)
      await confirm(tx, id)

      await asAccount(tx, id, (as) => as`select public.complete_registration('1985-05-05', true)`)

      expect(await accountOf(tx, id)).toMatchObject({ status: 'active', birth_date: '1985-05-05', consents: 2 })
    }))

  test('after one sign-up keeps all of it, as after an invitation that was sent twice', () =>
    rolledBack(async (tx) => {
      const id = await signUpWithPassword(tx)
      const invited = newcomer({ data: { ...adult, first_name: 'Ada' } })
      await signUp(tx, invited)
      for (const sentAt of [first, later]) await attempt(tx, invited.id, sentAt)

      await confirm(tx, id)
      await confirm(tx, invited.id)

      const kept = { password: 'hash of the first', status: 'active', first_name: 'Mallory', consents: 2 }
      expect(await accountOf(tx, id)).toMatchObject(kept)
      expect(await accountOf(tx, invited.id)).toMatchObject({ status: 'active', first_name: 'Ada', consents: 2 })
    }))

  test('stays suspended, and consents are append-only again afterwards', () =>
    rolledBack(async (tx) => {
      const id = await signUpWithPassword(tx)
      await attempt(tx, id, later)
      await tx`update public.profiles set status = 'suspended' where id = ${id}`
      await confirm(tx, id)
      const other = newcomer()
      await signUp(tx, other)

      expect(await profileOf(tx, id)).toMatchObject({ status: 'suspended' })
      const refused = await refusal(tx, (sp) => sp`delete from public.consents where user_id = ${other.id}`)
      expect(refused.sqlstate).toBe('42501')
    }))
})

describe('an address that nobody confirms', () => {
  const expire = async (tx: Tx, batchSize = 1000) => {
    const [row] = await tx`select private.delete_unconfirmed_accounts(${batchSize}) as deleted`
    return row?.deleted
  }
  const registered = (tx: Tx, id: string, hours: number) => tx`
    update private.registrations set confirmed_at = now() - make_interval(hours => ${hours}) where user_id = ${id}`
  const made = async (tx: Tx, hours: number, given: Parameters<typeof newcomer>[0] = {}) => {
    const user = newcomer(given)
    expect(await signUp(tx, user)).toBeNull()
    await registered(tx, user.id, hours)
    return user.id
  }

  test('holds a place under the cap for a day, then the next has it', () =>
    rolledBack(async (tx) => {
      const id = await made(tx, 23)
      await setSetting(tx, 'launch.phase', 'capped')
      await setSetting(tx, 'launch.user_cap', await takenPlaces(tx))

      expect(await expire(tx)).toBe(0)
      expect(await askHook(tx, newcomer())).toMatchObject({ message: 'All places are taken for now.' })
      await registered(tx, id, 25)
      expect(await expire(tx)).toBe(1)

      expect(await profileOf(tx, id)).toBeUndefined()
      expect(await signUp(tx, newcomer())).toBeNull()
    }))

  test('holds its use of an invite no longer, and the time is a setting', () =>
    rolledBack(async (tx) => {
      await setSetting(tx, 'launch.phase', 'invite')
      await setSetting(tx, 'registration.unconfirmed_hours', 2)
      const data = { ...adult, invite_code: (await createInvite(tx)).code }
      await made(tx, 3, { data })
      expect(await askHook(tx, newcomer({ data }))).toMatchObject({ message: expect.stringMatching(/used up/) })

      await expire(tx)

      expect(await signUp(tx, newcomer({ data }))).toBeNull()
    }))

  test.each<[string, Parameters<typeof newcomer>[0], (tx: Tx, id: string) => unknown]>([
    ['is confirmed', { confirmed: true }, () => {}],
    ['an import brought', {}, (tx, id) => tx`update private.registrations set origin = 'import' where user_id = ${id}`],
    [
      'came without the hook',
      {},
      (tx, id) => tx`update private.registrations set origin = 'unannounced' where user_id = ${id}`,
    ],
    ['was invited', {}, (tx, id) => tx`update auth.users set invited_at = now() where id = ${id}`],
    ['has signed in', {}, (tx, id) => tx`update auth.users set last_sign_in_at = now() where id = ${id}`],
    ['is suspended', {}, (tx, id) => tx`update public.profiles set status = 'suspended' where id = ${id}`],
    ['there is none, for an anonymous user', { isAnonymous: true }, () => {}],
  ])('goes, but one that %s stays', (_which, given, change) =>
    rolledBack(async (tx) => {
      const [gone, stays] = [await made(tx, 1000), await made(tx, 1000, given)]
      await change(tx, stays)

      expect(await expire(tx)).toBe(1)

      expect([await profileOf(tx, gone), (await profileOf(tx, stays))?.id]).toEqual([undefined, stays])
    }),
  )

  test('goes in batches, the oldest first, and a run that erased some is in the audit log', () =>
    rolledBack(async (tx) => {
      const [younger, older] = [await made(tx, 100), await made(tx, 200)]

      expect(await expire(tx, 1)).toBe(1)

      expect([(await profileOf(tx, younger))?.id, await profileOf(tx, older)]).toEqual([younger, undefined])
      const [entry] = await tx`select details from private.audit_log where action = 'registration.expire'`
      expect(entry?.details).toEqual({ accounts: 1 })
    }))
})

describe('many at the same time', { timeout: 60_000 }, () => {
  /** Runs sign-ups on connections of their own; settings and users are as before when it is over. */
  const race = async (settings: Record<string, unknown>, run: (sql: Sql, made: string[]) => Promise<void>) => {
    const sql = connect(25)
    const made: string[] = []
    const before = await sql`select key, value from private.settings where key like 'launch.%'`
    try {
      for (const [key, value] of Object.entries(settings)) await setSetting(sql, key, value)
      await Promise.all(Array.from({ length: 25 }, () => sql`select pg_sleep(0.02)`))
      await run(sql, made)
    } finally {
      for (const row of before) await setSetting(sql, row.key, row.value)
      await sql`delete from auth.users where id = any(${made}::uuid[])`
      await sql`delete from private.registrations where user_id = any(${made}::uuid[])`
      await sql.end()
    }
  }
  const signUpForReal = async (sql: Sql, made: string[], data: object) => {
    const user = newcomer({ data })
    made.push(user.id)
    const refused = await askHook(sql, user)
    if (refused) return refused.http_code
    await sql.begin((tx) => insertUser(tx, user))
    return 200
  }
  const accountsAmong = async (sql: Sql, ids: string[]) => {
    const [row] = await sql`
      select count(*)::int as n from auth.users u join public.profiles p using (id)
        join private.accounts c on c.user_id = u.id where u.id = any(${ids}::uuid[])`
    return row?.n
  }
  const tally = (answers: unknown[]) => [200, 403].map((code) => answers.filter((answer) => answer === code).length)

  test('50 sign-ups on a code with 10 uses make exactly 10 accounts and 40 refusals with 403', () =>
    race({ 'launch.phase': 'invite' }, async (sql, made) => {
      const { id, code } = await createInvite(sql, 10)

      const answers = await together(50, () => signUpForReal(sql, made, { ...adult, invite_code: code }))

      expect(tally(answers)).toEqual([10, 40])
      expect(await accountsAmong(sql, made)).toBe(10)
      const [invite] = await sql`select uses::int from public.list_invites() where id = ${id}`
      expect(invite?.uses).toBe(10)
    }))

  test('50 sign-ups under a cap with 10 places left make exactly 10 accounts and 40 refusals with 403', () =>
    race({ 'launch.phase': 'capped' }, async (sql, made) => {
      await setSetting(sql, 'launch.user_cap', (await takenPlaces(sql)) + 10)

      const answers = await together(50, () => signUpForReal(sql, made, adult))

      expect(tally(answers)).toEqual([10, 40])
      expect(await accountsAmong(sql, made)).toBe(10)
    }))

  test('50 users made past the hook under a cap with 10 places left are exactly 10, and no other leaves a trace', () =>
    race({ 'launch.phase': 'capped' }, async (sql, made) => {
      await setSetting(sql, 'launch.user_cap', (await takenPlaces(sql)) + 10)

      const answers = await together(50, async () => {
        const user = newcomer({ appMetadata: { registered_by: 'admin' } })
        made.push(user.id)
        await sql.begin((tx) => insertUser(tx, user))
        return 200
      })

      expect(answers.filter((answer) => answer === 200)).toHaveLength(10)
      expect(await accountsAmong(sql, made)).toBe(10)
      expect(await sql`select from private.registrations where user_id = any(${made}::uuid[])`).toHaveLength(10)
    }))

  test('sign-ups and users made past the hook together stay under the cap', () =>
    race({ 'launch.phase': 'capped' }, async (sql, made) => {
      await setSetting(sql, 'launch.user_cap', (await takenPlaces(sql)) + 7)

      await together(40, async (i) => {
        if (i % 2 === 0) return signUpForReal(sql, made, adult)
        const user = newcomer()
        made.push(user.id)
        await sql.begin((tx) => insertUser(tx, user))
        return 200
      })

      expect(await accountsAmong(sql, made)).toBe(7)
    }))
})
