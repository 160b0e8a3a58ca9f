/** Guessing passwords: it stops after a few, it cannot lock the owner out from elsewhere, and it tells nothing. */
import { createClient } from '@supabase/supabase-js'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Database } from '../../functions/_shared/database.types.ts'
import { fetchFrom } from '../support/from-address.ts'
import { newEmail, newUser, password } from '../support/users.ts'
import { target } from '../target.ts'

let sql: postgres.Sql
beforeAll(() => {
  sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
})
afterAll(() => sql.end())

/** A network of its own for each test, so that no test locks another one out. */
let network = 0
const newNetwork = () => {
  network += 1
  return `127.${1 + Math.floor(Math.random() * 200)}.${network}`
}

const clientFrom = (address: string) =>
  createClient<Database>(target().apiUrl, target().publishableKey, {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { fetch: fetchFrom(address) },
  })

const signIn = (address: string, email: string, word: string) =>
  clientFrom(address).auth.signInWithPassword({ email, password: word })

async function guess(times: number, address: string, email: string): Promise<void> {
  for (let time = 0; time < times; time += 1) await signIn(address, email, `Wrong${time}Password`)
}

describe('five wrong passwords', () => {
  test('lock the account for the network they came from, also for the right password', async () => {
    const [user, here] = [await newUser(), newNetwork()]
    await guess(5, `${here}.7`, user.email)

    const { data, error } = await signIn(`${here}.8`, user.email, password)

    expect([data.session, error?.code]).toEqual([null, 'invalid_credentials'])
  })

  test('from somewhere else do not lock the owner out', async () => {
    const [user, attacker, home] = [await newUser(), newNetwork(), newNetwork()]
    await guess(7, `${attacker}.7`, user.email)

    const { error } = await signIn(`${home}.1`, user.email, password)

    expect(error).toBeNull()
  })

  test('sent at the same time count like five in a row', async () => {
    const [user, here] = [await newUser(), newNetwork()]
    await Promise.all(Array.from({ length: 5 }, (_, n) => signIn(`${here}.7`, user.email, `Wrong${n}Password`)))

    const { error } = await signIn(`${here}.7`, user.email, password)

    expect(error?.code).toBe('invalid_credentials')
  })

  test('leave one security event and one notification, which the owner reads', async () => {
    const [user, here] = [await newUser(), newNetwork()]

    await guess(6, `${here}.7`, user.email)

    const events = await user.client.from('security_events').select('type, severity').eq('type', 'account_locked')
    expect(events.data).toEqual([{ type: 'account_locked', severity: 'high' }])
    expect((await user.client.from('notifications').select('type').eq('type', 'account_locked')).data).toHaveLength(1)
  })

  test('are forgotten when the lock has run out, and the next lock is longer', async () => {
    const [user, here] = [await newUser(), newNetwork()]
    await guess(5, `${here}.7`, user.email)
    const [first] = await sql`
      select locked_until - now() as left, locked_until from private.sign_in_locks where user_id = ${user.id}`
    await sql`update private.sign_in_locks set locked_until = now() - interval '1 second' where user_id = ${user.id}`

    expect((await signIn(`${here}.7`, user.email, `Wrong0Password`)).error?.code).toBe('invalid_credentials')
    await guess(4, `${here}.7`, user.email)

    const [second] = await sql`select locked_until from private.sign_in_locks where user_id = ${user.id}`
    expect(second?.locked_until.getTime()).toBeGreaterThan(first?.locked_until.getTime() + 10 * 60_000)
  })
})

describe('known and unknown addresses', () => {
  test('are refused with the same words, before a lock and after it', async () => {
    const [user, here] = [await newUser(), newNetwork()]
    const known: unknown[] = []
    const unknown: unknown[] = []
    const stranger = newEmail()

    for (let time = 0; time < 7; time += 1) {
      const answers = await Promise.all([user.email, stranger].map((email) => signIn(`${here}.7`, email, 'Wrong1Pass')))
      known.push(answers[0]?.error)
      unknown.push(answers[1]?.error)
    }

    expect(known.map(String)).toEqual(unknown.map(String))
    expect(known).toEqual(unknown)
  })
})
