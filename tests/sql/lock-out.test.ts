/** Lock-out: wrong passwords counted for an account and a network, and what a lock does and does not do. */
import { describe, expect, test } from 'vitest'
import { attempt, callHook, callHookIn, connectAsAdmin, rolledBackWithHooks } from './hooks-support.ts'
import { eventsOf, newAccount, racing, type Tx, together } from './support.ts'

const continues = { decision: 'continue' }
const refuses = { decision: 'reject', message: 'Invalid login credentials', should_logout_user: false }
const home = '192.0.2.7'
const elsewhere = '198.51.100.7'

const tryPassword = (tx: Tx, userId: string, valid: boolean, ip = home) =>
  callHookIn(tx, 'password_verification_attempt', attempt(userId, valid, ip))

async function fail(tx: Tx, userId: string, times: number, ip = home) {
  for (let i = 0; i < times; i++) expect(await tryPassword(tx, userId, false, ip)).toEqual(continues)
}

const tokenFor = (tx: Tx, userId: string, method: string, ip = home) =>
  callHookIn(tx, 'custom_access_token', {
    metadata: { ip_address: ip },
    user_id: userId,
    authentication_method: method,
    claims: { sub: userId },
  })

/** Moves what happened into the past instead of waiting. */
const later = async (tx: Tx, userId: string, time: string) => {
  await tx`update private.sign_in_locks set locked_until = locked_until - ${time}::interval where user_id = ${userId}`
  await tx`update private.sign_in_failures set failed_at = failed_at - ${time}::interval where user_id = ${userId}`
}

const lockMinutes = async (tx: Tx, userId: string) => {
  const [row] = await tx`
    select round(extract(epoch from locked_until - clock_timestamp()) / 60)::int as minutes
    from private.sign_in_locks where user_id = ${userId}`
  return row?.minutes
}

describe('after five wrong passwords within a quarter of an hour', () => {
  test('the right one is refused too, in the words of a wrong one, and no token is made', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)

      await fail(tx, id, 5)

      expect(await tryPassword(tx, id, true)).toEqual(refuses)
      expect(await tryPassword(tx, id, false)).toEqual(refuses)
      expect((await tokenFor(tx, id, 'password')).error).toEqual({
        http_code: 403,
        message: 'Invalid login credentials',
      })
    })
  })

  test('it is a security event and a notification, once', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)

      await fail(tx, id, 5)
      await tryPassword(tx, id, false)

      expect(await eventsOf(tx, id)).toEqual(['account_locked high'])
      expect(await tx`select type from public.notifications where user_id = ${id}`).toHaveLength(1)
    })
  })

  test('nobody is locked out from elsewhere, a running session goes on, and a mailed link works', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)

      await fail(tx, id, 5)

      expect(await tryPassword(tx, id, true, elsewhere)).toEqual(continues)
      expect((await tokenFor(tx, id, 'password', elsewhere)).error).toBeUndefined()
      expect((await tokenFor(tx, id, 'token_refresh')).error).toBeUndefined()
      expect((await tokenFor(tx, id, 'recovery')).error).toBeUndefined()
    })
  })

  test('addresses of one network count together: /24, and /56 of IPv6', async () => {
    await rolledBackWithHooks(async (tx) => {
      const [v4, v6] = [await newAccount(tx), await newAccount(tx)]

      for (const i of [1, 2, 3, 4, 5]) {
        await tryPassword(tx, v4.id, false, `192.0.2.${i}`)
        await tryPassword(tx, v6.id, false, `2001:db8:0:a${i}::1`)
      }

      expect(await tryPassword(tx, v4.id, true, '192.0.2.99')).toEqual(refuses)
      expect(await tryPassword(tx, v6.id, true, '2001:db8:0:a9::1')).toEqual(refuses)
      expect(await tryPassword(tx, v6.id, true, '2001:db8:0:1a9::1')).toEqual(continues)
    })
  })

  test('the lock lasts 15 minutes, twice as long each time, and never more than a day', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)
      const minutes: number[] = []

      for (let lock = 0; lock < 9; lock++) {
        await fail(tx, id, 5)
        minutes.push(await lockMinutes(tx, id))
        await later(tx, id, `${minutes.at(-1)} minutes 1 second`)
      }

      expect(minutes).toEqual([15, 30, 60, 120, 240, 480, 960, 1440, 1440])
    })
  })

  test('the right password afterwards clears the count and the lock', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)
      await fail(tx, id, 5)
      await later(tx, id, '16 minutes')

      expect(await tryPassword(tx, id, true)).toEqual(continues)
      await fail(tx, id, 5)

      expect(await lockMinutes(tx, id)).toBe(15)
    })
  })
})

describe('fewer than five', () => {
  test('do not lock: four, or five over a longer time', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)
      await fail(tx, id, 4)
      await later(tx, id, '16 minutes')

      await fail(tx, id, 4)

      expect(await tryPassword(tx, id, true)).toEqual(continues)
    })
  })
})

describe('an attack', () => {
  test('of fifty wrong passwords at the same time counts fifty, locks once and lets no right one in', async () => {
    await racing(1, async (_sql, accounts) => {
      const { id } = await accounts()
      const auth = connectAsAdmin(25)

      await together(50, () => callHook(auth, 'password_verification_attempt', attempt(id, false)))
      const right = await callHook(auth, 'password_verification_attempt', attempt(id, true))

      const [row] = await auth`
        select (select count(*)::int from private.sign_in_failures where user_id = ${id}) as failures,
          (select locks from private.sign_in_locks where user_id = ${id}) as locks`
      const events = await auth`
        select sum(occurrences)::int as times from public.security_events where user_id = ${id} and type = 'account_locked'`
      await auth.end()
      expect({ right, ...row, events }).toEqual({ right: refuses, failures: 50, locks: 1, events: [{ times: 1 }] })
    })
  }, 60_000)

  test('on one account from many networks raises an event and locks nobody', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)

      for (let i = 0; i < 20; i++) await fail(tx, id, 1, `10.0.${i}.1`)

      expect(await eventsOf(tx, id)).toEqual(['brute_force high'])
      expect(await tryPassword(tx, id, true)).toEqual(continues)
    })
  })

  test('on many accounts raises an event of the whole project', async () => {
    await rolledBackWithHooks(async (tx) => {
      await tx`update private.settings set value = '3' where key = 'lock_out.alert_failures_project'`
      await tx`delete from private.sign_in_failures where true`

      for (let i = 0; i < 3; i++) await fail(tx, (await newAccount(tx)).id, 1)

      const events = await tx`
        select severity from public.security_events where user_id is null and type = 'brute_force' and dedupe_key = 'project'`
      expect(events).toEqual([{ severity: 'critical' }])
    })
  })
})

describe('mailed codes', () => {
  const issue = (tx: Tx, userId: string) => tx`
    insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to)
    values (gen_random_uuid(), ${userId}, 'recovery_token', ${crypto.randomUUID()}, 'somebody@example.com')`
  const renew = async (tx: Tx, userId: string, times: number) => {
    for (let time = 0; time < times; time += 1) {
      await tx`delete from auth.one_time_tokens where user_id = ${userId}`
      await issue(tx, userId)
    }
  }

  test('that are made again and again for one account raise an event, at the number that the setting says', async () => {
    await rolledBackWithHooks(async (tx) => {
      await tx`update private.settings set value = '4' where key = 'lock_out.alert_codes'`
      const [{ id }, other] = [await newAccount(tx), await newAccount(tx)]
      await renew(tx, id, 3)
      await renew(tx, other.id, 3)

      expect(await eventsOf(tx, id)).toEqual([])
      await renew(tx, id, 1)

      expect(await eventsOf(tx, id)).toEqual(['mailed_codes medium'])
      expect(await eventsOf(tx, other.id)).toEqual([])
    })
  })

  test('of hours that are over count no more, and are forgotten after a day', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)
      await renew(tx, id, 9)
      await tx`update private.mailed_codes set hour = hour - interval '25 hours' where user_id = ${id}`

      await renew(tx, id, 9)
      await tx`select private.delete_old_sign_in_failures()`

      expect(await eventsOf(tx, id)).toEqual([])
      expect(await tx`select codes from private.mailed_codes where user_id = ${id}`).toEqual([{ codes: 9 }])
    })
  })
})

describe('the hook', () => {
  test('is executable by the Auth service only', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)

      for (const role of ['anon', 'authenticated', 'service_role']) {
        const refused = tx.savepoint(async (sp) => {
          await sp`select set_config('role', ${role}, true)`
          await sp`select private.password_verification_attempt(${JSON.stringify(attempt(id, true))}::text::jsonb)`
        })
        await expect(refused).rejects.toMatchObject({ code: '42501' })
      }
    })
  })

  test('counts also without an address', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)

      for (const ip of ['', 'unknown', '192.0.2.7:4711', '', '']) await tryPassword(tx, id, false, ip)

      expect(await tryPassword(tx, id, true, '')).toEqual(refuses)
    })
  })

  test('what it noted is forgotten after a day, a lock that may still grow is not', async () => {
    await rolledBackWithHooks(async (tx) => {
      const { id } = await newAccount(tx)
      await fail(tx, id, 5)
      const left = async () => {
        await tx`select private.delete_old_sign_in_failures()`
        const [row] = await tx`
          select (select count(*)::int from private.sign_in_failures where user_id = ${id}) as failures,
            (select count(*)::int from private.sign_in_locks where user_id = ${id}) as locks`
        return row
      }
      expect(await left()).toEqual({ failures: 5, locks: 1 })
      await later(tx, id, '24 hours 1 minute')
      expect(await left()).toEqual({ failures: 0, locks: 1 })
      await later(tx, id, '1 hour')
      expect(await left()).toEqual({ failures: 0, locks: 0 })
    })
  })
})
