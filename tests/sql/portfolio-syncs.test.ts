/** Who syncs a credential, and when: one worker at a time, whatever crashes, races or is told to slow down. */
import { describe, expect, test } from 'vitest'
import { addFactor } from '../support/sql.ts'
import { type Connection, lease, lotsOf, newConnection, positionsOf, record, sync, trade } from './portfolio-support.ts'
import { type Account, newAccount, racing, refusal, rolledBack, type Sql, type Tx, together } from './support.ts'

const take = async (sql: Sql | Tx, { account }: Connection, max = 10): Promise<{ id: string; lease: string }[]> => {
  const rows = await sql`
    select credential_id, lease_id from private.lease_portfolio_sync(${max}, ${account.id}, ${account.sessionId})`
  return rows.map((row) => ({ id: row.credential_id, lease: row.lease_id }))
}
const fail = async (sql: Sql | Tx, leaseId: string, pause: number | null = null) =>
  (await sql`select private.fail_portfolio_sync(${leaseId}, 'it did not answer', ${pause}) as answer`)[0]?.answer

/** Seconds until the sync is due, as the table says. */
const restOf = async (sql: Sql | Tx, { credentialId }: Connection): Promise<number> => {
  const [row] = await sql`
    select extract(epoch from next_sync_at - now())::float8 as rest from private.portfolio_syncs where credential_id = ${credentialId}`
  return row?.rest
}
/** As if that much time had passed. */
const pass = (sql: Sql | Tx, { credentialId }: Connection, time: string) => sql`
  update private.portfolio_syncs set next_sync_at = next_sync_at - ${time}::interval, leased_until = leased_until - ${time}::interval,
    last_synced_at = last_synced_at - ${time}::interval
  where credential_id = ${credentialId}`

/** Whether the job's function is called; here nobody is, and an event says so. */
const callsJob = async (tx: Tx): Promise<boolean> => {
  await tx`delete from private.security_events where type = 'jobs_not_configured'`
  await tx`select private.call_sync_portfolios()`
  return (await tx`select from private.security_events where type = 'jobs_not_configured'`).count > 0
}

describe('a lease', () => {
  test('of an active credential is there at once, and for one worker only', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      const called = await callsJob(tx)
      const [first, second] = [await take(tx, connection), await take(tx, connection)]

      expect([called, await callsJob(tx)]).toEqual([true, false])
      expect(first.map(({ id }) => id)).toEqual([connection.credentialId])
      expect(second).toEqual([])
    }))

  test('says every asset that was ever held or traded, so that no market of it is forgotten', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await sync(tx, connection, { holdings: { SOL: '1', USD: '5' } })
      const trades = [trade(1, 'buy', '1', '2', { base: 'VEN', quote: 'ETH', fee: '1', fee_asset: 'BNB' })]
      await sync(tx, connection, { holdings: { BTC: '1' }, trades })

      await tx`update private.portfolio_syncs set next_sync_at = now() where credential_id = ${connection.credentialId}`
      const [leased] = await tx`
        select held from private.lease_portfolio_sync(1, ${connection.account.id}, ${connection.account.sessionId})`

      expect(leased?.held).toEqual(['BNB', 'BTC', 'ETH', 'SOL', 'USD', 'VEN'])
    }))

  test.each([
    ['a credential that is not active', "update public.credentials set status = 'failed' where id = $1"],
    [
      'a disabled exchange',
      'update private.exchanges set enabled = false where id = (select provider from public.credentials where id = $1)',
    ],
    [
      'a suspended account',
      "update public.profiles set status = 'suspended' where id = (select user_id from public.credentials where id = $1)",
    ],
    [
      'a banned account',
      "update auth.users set banned_until = now() + interval '1 hour' where id = (select user_id from public.credentials where id = $1)",
    ],
    [
      'a deleted account',
      "update public.profiles set status = 'deleted' where id = (select user_id from public.credentials where id = $1)",
    ],
    [
      'a deleted account whose row the Auth service keeps',
      'update auth.users set deleted_at = now() where id = (select user_id from public.credentials where id = $1)',
    ],
    ['an AI provider', "update public.credentials set kind = 'ai_provider' where id = $1"],
    [
      'a sync that is not due',
      "update private.portfolio_syncs set next_sync_at = now() + interval '1 minute' where credential_id = $1",
    ],
  ])('is not given for %s, not even when its owner asks, and the job is not called', (what, change) =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await tx`update private.portfolio_syncs set next_sync_at = now() + interval '1 hour' where user_id <> ${connection.account.id}`

      await tx.unsafe(change, [connection.credentialId])

      expect(await callsJob(tx)).toBe(false)
      const leased = await tx`select credential_id from private.lease_portfolio_sync(100)`
      expect(leased.map((row) => row.credential_id)).not.toContain(connection.credentialId)
      if (/^a (suspended|banned|deleted)/.test(what)) await refusal(tx, (as) => take(as, connection))
      else expect(await take(tx, connection)).toEqual([])
    }),
  )

  test.each<[string, string, (tx: Tx, account: Account) => Promise<unknown>]>([
    [
      'a suspended account',
      'account_suspended',
      (tx, { id }) => tx`update public.profiles set status = 'suspended' where id = ${id}`,
    ],
    [
      'a ban by the Auth service',
      'account_suspended',
      (tx, { id }) => tx`update auth.users set banned_until = now() + interval '1 hour' where id = ${id}`,
    ],
    [
      'a deleted account',
      'invalid_api_key',
      (tx, { id }) => tx`update public.profiles set status = 'deleted' where id = ${id}`,
    ],
    [
      'a session that has ended',
      'invalid_api_key',
      (tx, { sessionId }) => tx`delete from auth.sessions where id = ${sessionId}`,
    ],
    ['a second factor that was not used', 'insufficient_aal', (tx, { id }) => addFactor(tx, id)],
  ])('is refused to who asks with %s, and so is the list of syncs', (_, code, change) =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const { id, sessionId } = connection.account

      await change(tx, connection.account)

      expect(await refusal(tx, (as) => take(as, connection))).toMatchObject({ code })
      expect(
        await refusal(tx, (as) => as`select from private.list_portfolio_syncs(${id}, ${sessionId})`),
      ).toMatchObject({ code })
    }),
  )

  test('is refused to a token from before the second factor, whatever its session has proven since', () =>
    rolledBack(async (tx) => {
      const { account } = await newConnection(tx)
      await addFactor(tx, account.id)
      await tx`update auth.sessions set aal = 'aal2' where id = ${account.sessionId}`
      const by = (aal: string) => tx.json({ aal, ip: null, user_agent: null, request_id: 'r' })
      const leased = (as: Sql | Tx, aal: string) =>
        as`select from private.lease_portfolio_sync(1, ${account.id}, ${account.sessionId}, '{}', ${by(aal)})`
      const listed = (as: Sql | Tx, aal: string) =>
        as`select from private.list_portfolio_syncs(${account.id}, ${account.sessionId}, ${by(aal)})`

      expect(await refusal(tx, (as) => leased(as, 'aal1'))).toMatchObject({ code: 'insufficient_aal' })
      expect(await refusal(tx, (as) => listed(as, 'aal1'))).toMatchObject({ code: 'insufficient_aal' })
      expect(await listed(tx, 'aal2')).toHaveLength(1)
      expect(await leased(tx, 'aal2')).toHaveLength(1)
    }))

  test('is given to an admin without a second factor, who may look at a portfolio like anybody', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      await tx`update public.profiles set role = 'admin' where id = ${connection.account.id}`

      expect(await take(tx, connection)).toHaveLength(1)
    }))

  test('goes to users in turn, so that many credentials of one keep no other waiting', () =>
    rolledBack(async (tx) => {
      const first = await newConnection(tx)
      for (let index = 0; index < 9; index++) await newConnection(tx, first)
      await tx`update private.portfolio_syncs set next_sync_at = now() - interval '100 years' where user_id = ${first.account.id}`
      const other = await newConnection(tx)
      await tx`update private.portfolio_syncs set next_sync_at = now() - interval '99 years' where user_id = ${other.account.id}`

      const leased = await tx`select user_id from private.lease_portfolio_sync(2)`

      expect(leased.map(({ user_id }) => user_id).toSorted()).toEqual([first.account.id, other.account.id].toSorted())
    }))

  test('goes to exactly one of many workers at the same time', () =>
    racing(8, async (sql, accounts) => {
      const account = await accounts()
      const first = await newConnection(sql, { account })
      const all = [first, await newConnection(sql, first), await newConnection(sql, first)]

      const taken = await together(8, () => take(sql, first, 2))

      const ids = taken.flatMap((leases) => (Array.isArray(leases) ? leases.map(({ id }) => id) : ['refused']))
      expect(ids.sort()).toEqual(all.map(({ credentialId }) => credentialId).sort())
    }))

  test('that another worker took over records nothing, and one that nobody took still does', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const [crashed] = await take(tx, connection)
      await pass(tx, connection, '3 minutes')
      const [successor] = await take(tx, connection)
      await pass(tx, connection, '3 minutes')

      const late = await record(tx, crashed?.lease ?? '', { trades: [trade(1, 'buy', '9', '9')] })
      const good = await record(tx, successor?.lease ?? '', { trades: [trade(2, 'buy', '1', '100')] })
      const again = await record(tx, successor?.lease ?? '', { trades: [trade(3, 'buy', '1', '100')] })

      expect([late, good.recorded, again]).toEqual([{ recorded: false }, true, { recorded: false }])
      expect(await fail(tx, successor?.lease ?? '')).toBe(false)
      expect(await lotsOf(tx, connection)).toEqual(['1/1 BTC for 100'])
    }))

  test('goes on with the pages of a long history, and nothing is double when the second page’s worker dies', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const pages = [[trade(1, 'buy', '2', '10')], [trade(2, 'sell', '1', '15'), trade(3, 'buy', '1', '11')]]
      const [first] = await take(tx, connection)
      const page = await record(tx, first?.lease ?? '', { holdings: null, trades: pages[0], cursor: { page: 1 } })
      await record(tx, first?.lease ?? '', { holdings: null, trades: pages[1], cursor: { page: 2 } })
      await pass(tx, connection, '3 minutes')

      const { id, sessionId } = connection.account
      const [second] = await tx`select lease_id, cursor from private.lease_portfolio_sync(1, ${id}, ${sessionId})`
      const last = await record(tx, second?.lease_id, {
        holdings: { BTC: '2' },
        prices: { BTC: '12' },
        trades: pages.flat(),
      })

      expect(page).toEqual({ recorded: true, new_trades: ['t1'], is_complete: false, skipped_rows: 0 })
      expect(second?.cursor).toEqual({ page: 2 })
      expect(last).toMatchObject({ new_trades: [], value: 24 })
      expect(await positionsOf(tx, connection)).toEqual({ BTC: ['5', '0', '0', '0'] })
    }))

  test('given back in the middle keeps what was read, and the next worker goes on at once', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const [first] = await take(tx, connection)
      await record(tx, first?.lease ?? '', {
        holdings: null,
        trades: [trade(1, 'buy', '2', '10')],
        cursor: { page: 1 },
      })
      const pause = async () =>
        (await tx`select private.pause_portfolio_sync(${first?.lease ?? ''}) as answer`)[0]?.answer

      expect([await pause(), await pause()]).toEqual([true, false])

      const { id, sessionId } = connection.account
      const [second] = await tx`select lease_id, cursor from private.lease_portfolio_sync(1, ${id}, ${sessionId})`
      expect(second?.cursor).toEqual({ page: 1 })
      expect(await lotsOf(tx, connection)).toEqual(['2/2 BTC for 20'])
    }))

  test('is not given for an exchange that the worker reads from already', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const [one, two] = [await newConnection(tx, { account }), await newConnection(tx, { account })]

      const leased = await tx`
        select credential_id from private.lease_portfolio_sync(10, ${account.id}, ${account.sessionId}, ${[one.exchange]})`

      expect([...leased]).toEqual([{ credential_id: two.credentialId }])
    }))
})

describe('a key that its exchange refuses', () => {
  test('fails its credential and tells its owner, but not the key that took its place meanwhile', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const refuse = async (version: number) => {
        const leaseId = await lease(tx, connection)
        await tx`select private.fail_portfolio_sync(${leaseId}, 'wrong_key', null, ${version})`
      }
      const seen = async () => [
        (await tx`select status from public.credentials where id = ${connection.credentialId}`)[0]?.status,
        (await tx`select from public.notifications where user_id = ${connection.account.id}`).count,
      ]
      await tx`update public.credentials set version = 2 where id = ${connection.credentialId}`

      await refuse(1)
      expect(await seen()).toEqual(['active', 0])
      await refuse(2)
      expect(await seen()).toEqual(['failed', 1])
    }))
})

describe('the next sync', () => {
  test('is due after 15 minutes, a tenth more or less', () =>
    rolledBack(async (tx) => {
      const rests = new Set<number>()
      for (let i = 0; i < 20; i += 1) {
        const connection = await newConnection(tx)
        await sync(tx, connection, {})
        rests.add(await restOf(tx, connection))
      }

      expect(Math.min(...rests)).toBeGreaterThanOrEqual(15 * 54)
      expect(Math.max(...rests)).toBeLessThanOrEqual(15 * 66)
      expect(rests.size).toBeGreaterThan(10)
    }))

  test('is earlier when its owner asks, but not within a minute, nor for another', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const other = { ...connection, account: await newAccount(tx) }
      await sync(tx, connection, {})

      const atOnce = await take(tx, connection)
      await pass(tx, connection, '61 seconds')

      expect([atOnce, await take(tx, other)]).toEqual([[], []])
      expect(await take(tx, connection)).toHaveLength(1)
    }))

  test('comes later after every failure, and at once after a success', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)
      const rests: number[] = []
      for (let i = 0; i < 4; i += 1) {
        await fail(tx, await lease(tx, connection))
        rests.push((await restOf(tx, connection)) / 60)
      }

      for (const [i, minutes] of [1, 2, 4, 8].entries()) {
        expect(rests[i]).toBeGreaterThanOrEqual(minutes * 0.9)
        expect(rests[i]).toBeLessThanOrEqual(minutes * 1.1)
      }
      expect(await take(tx, connection)).toEqual([])
    }))

  test('after a crash is due when the lease ends; after a second crash in a row it rests', () =>
    rolledBack(async (tx) => {
      const connection = await newConnection(tx)

      await take(tx, connection)
      expect(await restOf(tx, connection)).toBeCloseTo(120, 3)
      await pass(tx, connection, '121 seconds')
      await take(tx, connection)

      expect(await restOf(tx, connection)).toBeGreaterThanOrEqual(120 + 54)
    }))

  test('waits for everybody while an exchange limits our rate, and is nobody’s failure', () =>
    rolledBack(async (tx) => {
      const one = await newConnection(tx)
      const two = await newConnection(tx, { exchange: one.exchange })

      await fail(tx, await lease(tx, one), 30)

      expect(await restOf(tx, one)).toBeCloseTo(30, 3)
      expect(await take(tx, two)).toEqual([])
      await tx`update private.exchange_pauses set paused_until = now() where exchange_id = ${one.exchange}`
      expect(await take(tx, two)).toHaveLength(1)
      const [state] = await tx`
        select attempts, error from private.portfolio_syncs where credential_id = ${one.credentialId}`
      expect(state).toEqual({ attempts: 0, error: 'it did not answer' })
    }))
})

describe('syncs at the same time', () => {
  test('of one user’s credentials write totals that hold both, in the end', () =>
    racing(4, async (sql, accounts) => {
      const one = await newConnection(sql, { account: await accounts() })
      const two = await newConnection(sql, one)
      const leases = [await lease(sql, one), await lease(sql, two)]

      await together(2, (i) => record(sql, leases[i] ?? '', { holdings: { BTC: '1' }, prices: { BTC: '100' } }))

      const [last] = await sql`
        select value::int from public.portfolio_snapshots where user_id = ${one.account.id} and credential_id is null
        order by taken_at desc limit 1`
      expect(last).toEqual({ value: 200 })
    }))

  test('by a worker that answers twice at once are recorded once', () =>
    racing(4, async (sql, accounts) => {
      const connection = await newConnection(sql, { account: await accounts() })
      const leaseId = await lease(sql, connection)

      const answers = await together(4, () => record(sql, leaseId, { trades: [trade(1, 'buy', '1', '100')] }))

      expect(answers.filter((answer) => 'recorded' in answer && answer.recorded)).toHaveLength(1)
      expect(await lotsOf(sql, connection)).toEqual(['1/1 BTC for 100'])
    }))
})
