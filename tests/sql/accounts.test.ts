import { describe, expect, test } from 'vitest'
import { type Account, asUser, creditsOf, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const profileOf = async (tx: Tx, id: string) => {
  const [row] = await tx`select *, birth_date::text as birth_date from public.profiles where id = ${id}`
  return row
}
const createAccount = (tx: Tx, { id }: Account) => tx`select private.create_account(${id})`
const setZone = (tx: Tx, { id }: Account, zone: string) =>
  asUser(tx, id, (as) => as`update public.profiles set time_zone = ${zone} where id = ${id}`)
const zonesOf = async (tx: Tx, { id }: Account) => {
  const profile = await profileOf(tx, id)
  return [profile?.time_zone, profile?.quota_time_zone]
}

describe('sign-up', () => {
  test.each<[string, unknown]>([
    ['names of other types', { first_name: 12, last_name: ['x'], display_name: { a: 1 }, birth_date: true }],
    [
      'names of a thousand letters',
      { first_name: 'n'.repeat(1000), last_name: '🦊'.repeat(1000), display_name: ' '.repeat(1000) },
    ],
    ['empty names', { first_name: '', last_name: '   ', display_name: null }],
    ['a day that does not exist', { birth_date: '2023-02-29' }],
    ['a date with a time', { birth_date: '1990-01-01T00:00:00Z' }],
    ['a date in words', { birth_date: 'yesterday' }],
    ['an infinite date', { birth_date: 'infinity' }],
    ['a year without end', { birth_date: '99999999-01-01' }],
    ['a list', [1, 2]],
    ['a text', 'metadata'],
    ['JSON null', null],
    ['quotes and backslashes', { first_name: `'; drop table x; -- \\ "`, birth_date: `'` }],
  ])('metadata with %s never breaks it', (_name, metadata) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { metadata })

      const profile = await profileOf(tx, account.id)
      expect(profile).toMatchObject({ status: 'active', role: 'user', plan_id: 'free', birth_date: null })
      for (const name of [profile?.first_name, profile?.last_name, profile?.display_name])
        expect([...(name ?? 'null')].length).toBeLessThanOrEqual(80)
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 0 })
    }),
  )

  test('it never gives a role, a plan or a status that the metadata asks for', () =>
    rolledBack(async (tx) => {
      const metadata = { role: 'admin', plan_id: 'premium', status: 'active', id: crypto.randomUUID() }

      const { id } = await newAccount(tx, { confirmed: false, metadata })

      expect(await profileOf(tx, id)).toMatchObject({ role: 'user', plan_id: 'free', status: 'pending' })
    }))

  test('it gives a profile with what was typed, trimmed and cut', () =>
    rolledBack(async (tx) => {
      const metadata = {
        first_name: '  Ada ',
        last_name: 'L'.repeat(81),
        display_name: 'Ada L.',
        birth_date: '2024-02-29',
      }

      const { id } = await newAccount(tx, { metadata })

      expect(await profileOf(tx, id)).toMatchObject({
        first_name: 'Ada',
        last_name: 'L'.repeat(80),
        display_name: 'Ada L.',
        birth_date: '2024-02-29',
        time_zone: 'UTC',
        quota_time_zone: 'UTC',
      })
    }))

  test('it gives 100 credits with one entry in the ledger', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const entries =
        await tx`select amount::int, kind, balance_after::int from public.credit_entries where user_id = ${id}`
      expect(await creditsOf(tx, id)).toEqual({ balance: 100, held: 0 })
      expect([...entries]).toEqual([{ amount: 100, kind: 'sign_up', balance_after: 100 }])
    }))

  test('it gives as many credits as the setting says, and no entry for none', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '0' where key = 'credits.on_sign_up'`

      const { id } = await newAccount(tx)

      const entries = await tx`select from public.credit_entries where user_id = ${id}`
      expect(await creditsOf(tx, id)).toEqual({ balance: 0, held: 0 })
      expect(entries.length).toBe(0)
    }))
})

describe('create_account', () => {
  test('a second time it changes nothing', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await tx`update public.profiles set status = 'suspended', first_name = 'Kept' where id = ${account.id}`

      await createAccount(tx, account)

      expect(await profileOf(tx, account.id)).toMatchObject({ status: 'suspended', first_name: 'Kept' })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 0 })
    }))

  test('it is harmless when the credits on sign-up have changed since', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await tx`update private.settings set value = '200' where key = 'credits.on_sign_up'`

      await createAccount(tx, account)

      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 0 })
    }))

  test('it completes a user who was there before Palisade', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { metadata: { first_name: 'Old' } })
      await tx`alter table private.credit_bookings disable trigger user`
      await tx`delete from private.credit_bookings where user_id = ${account.id}`
      await tx`delete from private.accounts where user_id = ${account.id}`
      await tx`delete from public.profiles where id = ${account.id}`

      await createAccount(tx, account)

      expect(await profileOf(tx, account.id)).toMatchObject({ first_name: 'Old', status: 'active' })
      expect(await creditsOf(tx, account.id)).toEqual({ balance: 100, held: 0 })
    }))

  test('monthly periods of a completed user still begin at the sign-up', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const days = 39
      await tx`update auth.users set created_at = now() - ${days} * interval '1 day' where id = ${account.id}`
      await tx`delete from public.profiles where id = ${account.id}`

      await createAccount(tx, account)

      const [row] = await tx`
        select l.resets_at = private.period_resets_at('month', 'UTC', u.created_at, now()) as is_kept
        from auth.users u, private.limits_of(u.id) l
        where u.id = ${account.id} and l.meter = 'ai_tokens' and l.period = 'month'`
      expect(row?.is_kept).toBe(true)
    }))
})

describe('activation', () => {
  const confirm = (tx: Tx, { id }: Account) => tx`update auth.users set email_confirmed_at = now() where id = ${id}`

  test('an account without a confirmed e-mail is pending', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx, { confirmed: false })

      expect((await profileOf(tx, id))?.status).toBe('pending')
    }))

  test.each(['suspended', 'deleted'])('confirming an e-mail leaves a %s account as it is', (status) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { confirmed: false })
      await tx`update public.profiles set status = ${status} where id = ${account.id}`

      await confirm(tx, account)

      expect((await profileOf(tx, account.id))?.status).toBe(status)
    }),
  )

  test('confirming the e-mail makes a pending account active', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { confirmed: false })

      await confirm(tx, account)

      expect((await profileOf(tx, account.id))?.status).toBe('active')
    }))
})

describe('the profile', () => {
  test.each([
    ['status', `'active'`],
    ['role', `'admin'`],
    ['plan_id', `'premium'`],
    ['birth_date', `'1990-01-01'`],
    ['quota_time_zone', `'Asia/Tokyo'`],
    ['quota_time_zone_changed_at', 'null'],
    ['created_at', 'now()'],
    ['id', 'gen_random_uuid()'],
  ])('its owner cannot write %s', (column, value) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(sp, id, (as) => as.unsafe(`update public.profiles set ${column} = ${value} where id = '${id}'`)),
      )

      expect(refused.sqlstate).toBe('42501')
    }),
  )

  test.each(['insert into public.profiles (id) values (gen_random_uuid())', 'delete from public.profiles'])(
    'a signed-in user cannot "%s"',
    (statement) =>
      rolledBack(async (tx) => {
        const { id } = await newAccount(tx)

        const refused = await refusal(tx, (sp) => asUser(sp, id, (as) => as.unsafe(statement)))

        expect(refused.sqlstate).toBe('42501')
      }),
  )

  test('another user neither sees nor changes it', () =>
    rolledBack(async (tx) => {
      const owner = await newAccount(tx)
      const other = await newAccount(tx)

      const counts = await asUser(tx, other.id, async (as) => [
        (await as`select from public.profiles where id = ${owner.id}`).count,
        (await as`update public.profiles set bio = 'x' where id = ${owner.id}`).count,
        (await as`select from public.profiles`).count,
      ])

      expect(counts).toEqual([0, 0, 1])
    }))

  test('its owner writes the personal columns', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const personal = {
        first_name: 'Ada',
        last_name: 'L',
        display_name: 'Ada',
        avatar_path: 'a.png',
        bio: 'b',
        locale: 'de-CH',
      }

      await asUser(tx, id, (as) => as`update public.profiles set ${as(personal)} where id = ${id}`)

      expect(await profileOf(tx, id)).toMatchObject(personal)
    }))

  test.each([
    ['display_name', ''],
    ['first_name', 'n'.repeat(81)],
    ['bio', 'b'.repeat(501)],
    ['locale', 'not a locale'],
    ['avatar_path', 'p'.repeat(501)],
  ])('a %s that is empty, too long or malformed is refused', (column, value) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(sp, id, (as) => as`update public.profiles set ${as({ [column]: value })} where id = ${id}`),
      )

      expect(refused.sqlstate).toBe('23514')
    }),
  )
})

describe('the time zone', () => {
  test.each(['Mars/Olympus', 'Europe/Berlin ', '', '+02:00', `UTC'; select 1; --`])('%j is refused', (zone) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      const refused = await refusal(tx, (sp) => setZone(sp, account, zone))

      expect(refused).toMatchObject({ code: 'invalid_request_error', status: 400 })
    }),
  )

  test.each([
    ['europe/berlin', 'Europe/Berlin'],
    ['AMERICA/PORT-AU-PRINCE', 'America/Port-au-Prince'],
    ['asia/calcutta', 'Asia/Calcutta'],
    ['japan', 'Japan'],
    ['utc', 'UTC'],
    ['etc/gmt+3', 'Etc/GMT+3'],
  ])('%s is stored as %s, and moves the daily limits along', (zone, name) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      await setZone(tx, account, zone)

      expect(await zonesOf(tx, account)).toEqual([name, name])
    }),
  )

  test('the zone of today in other letters is no change', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setZone(tx, account, 'utc')

      await setZone(tx, account, 'Asia/Tokyo')

      expect(await zonesOf(tx, account)).toEqual(['Asia/Tokyo', 'Asia/Tokyo'])
    }))

  test('the first change moves the daily limits along', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)

      await setZone(tx, account, 'Europe/Berlin')

      expect(await zonesOf(tx, account)).toEqual(['Europe/Berlin', 'Europe/Berlin'])
    }))

  test.each([0, 29])('a change %i days after the last leaves the daily limits where they are', (days) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setZone(tx, account, 'Europe/Berlin')
      await tx`
        update public.profiles set quota_time_zone_changed_at = now() - ${days} * interval '1 day' where id = ${account.id}`

      await setZone(tx, account, 'Asia/Tokyo')

      expect(await zonesOf(tx, account)).toEqual(['Asia/Tokyo', 'Europe/Berlin'])
    }),
  )

  test('a change 31 days after the last moves the daily limits again', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setZone(tx, account, 'Europe/Berlin')
      await tx`
        update public.profiles set quota_time_zone_changed_at = now() - interval '31 days' where id = ${account.id}`

      await setZone(tx, account, 'Asia/Tokyo')

      expect(await zonesOf(tx, account)).toEqual(['Asia/Tokyo', 'Asia/Tokyo'])
    }))

  test('writing the same zone again does not use up the change', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await setZone(tx, account, 'UTC')

      await setZone(tx, account, 'Asia/Tokyo')

      expect(await zonesOf(tx, account)).toEqual(['Asia/Tokyo', 'Asia/Tokyo'])
    }))

  test('a change does not shorten or renew a day that is running', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      await tx`select private.consume(${account.id}, 'chat_sessions', 'day', 10)`

      await setZone(tx, account, 'Pacific/Kiritimati')

      const [row] = await tx`
        select l.used::int, l.resets_at = private.period_resets_at('day', 'UTC', now(), now()) as same_end
        from private.limits_of(${account.id}) l where l.meter = 'chat_sessions'`
      expect(row).toEqual({ used: 10, same_end: true })
    }))
})
