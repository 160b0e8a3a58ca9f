import { describe, expect, test } from 'vitest'
import { asRole, asUser, newAccount, racing, refusal, rolledBack, type Sql, type Tx } from './support.ts'

const audit = (sql: Sql | Tx, action: string, userId: string | null = null, details: object = {}) => sql`
  select private.audit(
    action => ${action}, resource_type => 'thing', resource_id => '1', user_id => ${userId}::uuid,
    details => ${JSON.stringify(details)}::text::jsonb)`

/** Entries get their place when their transaction commits; a test that rolls back asks for it. */
const seal = (tx: Tx) => tx`set constraints all immediate`

/** This test's own month, so that what others wrote does not matter. */
async function chainOf(tx: Tx, actions: string[]): Promise<{ id: string; month: string }[]> {
  await tx`select private.create_audit_partitions()`
  await tx`
    insert into private.audit_log (created_at, actor_role, action, resource_type, result, details)
    select '2020-02-03T04:05:06Z'::timestamptz + n * interval '1 second', 'postgres', action, 'thing', 'success', '{}'
    from unnest(${actions}::text[]) with ordinality t (action, n)`
  await seal(tx)
  return tx`
    select id, '2020-02-01' as month from private.audit_log
    where created_at < '2020-03-01' and created_at >= '2020-02-01' order by seq`
}

const problems = (tx: Tx) =>
  tx`select to_char(month, 'YYYY-MM-DD') as month, seq::int, problem from private.verify_audit_chain() where month = '2020-02-01'`

const newProblems = (tx: Tx) =>
  tx`select to_char(month, 'YYYY-MM-DD') as month, seq::int, problem from private.verify_new_audit_entries() where month = '2020-02-01'`
const provenTo = async (tx: Tx) =>
  (await tx`select seq::int from private.audit_proofs where month = '2020-02-01'`)[0]?.seq

/** What only the owner of the table can do: switch the guard off. */
async function tamper(tx: Tx, change: (tx: Tx) => PromiseLike<unknown>) {
  await tx`alter table private.audit_log disable trigger tg_audit_log__append_only`
  await change(tx)
  return problems(tx)
}

describe('the log is append-only', () => {
  test.each([
    ['update', (tx: Tx) => tx`update private.audit_log set action = 'a.lie' where true`],
    ['an update of the hash', (tx: Tx) => tx`update private.audit_log set hash = '\\x00' where true`],
    ['delete', (tx: Tx) => tx`delete from private.audit_log where true`],
    ['truncate', (tx: Tx) => tx`truncate private.audit_log`],
    ['truncate of a partition', (tx: Tx) => tx`truncate private.audit_log_default`],
    ['removing the ends of chains', (tx: Tx) => tx`delete from private.audit_chain_heads where true`],
    ['truncate of the ends of chains', (tx: Tx) => tx`truncate private.audit_chain_heads`],
    ['truncate of the list of archives', (tx: Tx) => tx`truncate private.audit_archives`],
    [
      'a forged seal',
      (tx: Tx) =>
        tx`
      insert into private.audit_log (actor_role, action, resource_type, result, details, seq, previous_hash, hash)
      values ('postgres', 'a.lie', 'thing', 'success', '{}', 1, '', sha256('x'))`.then(() => seal(tx)),
    ],
  ])('%s is refused, also to the owner of the table in replica mode', (_, change) =>
    rolledBack(async (tx) => {
      await chainOf(tx, ['a.first'])
      await tx`set local session_replication_role = 'replica'`

      expect(await refusal(tx, change)).toMatchObject({ sqlstate: '42501', message: 'the audit log is append-only' })
    }),
  )

  test.each(['authenticated', 'service_role'])('%s cannot write it, nor call what writes it', (role) =>
    rolledBack(async (tx) => {
      for (const attempt of [
        (as: Tx) => as`insert into private.audit_log (actor_role, action, resource_type, result, details)
          values ('me', 'a.b', 'thing', 'success', '{}')`,
        (as: Tx) => audit(as, 'a.b'),
        (as: Tx) => as`insert into public.audit_log (action) values ('a.b')`,
      ]) {
        const refused = await refusal(tx, (sp) => asRole(sp, role, { role }, attempt))
        // 55000: the view joins, so PostgreSQL cannot write through it.
        expect(['42501', '55000']).toContain(refused.sqlstate)
      }
    }),
  )
})

describe('an entry', () => {
  test('that cannot be written fails what it should have recorded', () =>
    rolledBack(async (tx) => {
      expect(await refusal(tx, (sp) => audit(sp, 'not an action'))).toMatchObject({ sqlstate: '23514' })
      expect(await refusal(tx, (sp) => audit(sp, 'a.b', null, { long: 'x'.repeat(17_000) }))).toMatchObject({
        sqlstate: '23514',
      })
    }))

  test('knows who asked, from where and under which request', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await tx`select set_config('request.jwt.claims', ${JSON.stringify({ sub: id, role: 'authenticated' })}, true),
        set_config('request.headers', ${JSON.stringify({
          'x-forwarded-for': '6.6.6.6, 203.0.113.9',
          'user-agent': 'Tester/1.0',
          'x-request-id': 'req_1',
        })}, true)`

      await audit(tx, 'thing.touch', id)

      const [entry] = await tx`
        select actor_id, actor_role, user_id, host(ip) as ip, user_agent, request_id from private.audit_log
        where user_id = ${id} and action = 'thing.touch'`
      expect(entry).toEqual({
        actor_id: id,
        actor_role: 'authenticated',
        user_id: id,
        ip: '203.0.113.9',
        user_agent: 'Tester/1.0',
        request_id: 'req_1',
      })
    }))

  test.each([
    [{ 'cf-connecting-ip': '203.0.113.7', 'x-forwarded-for': '203.0.113.9' }, '203.0.113.7'],
    [{ 'x-forwarded-for': '6.6.6.6, 203.0.113.9' }, '203.0.113.9'],
    [{ 'x-forwarded-for': '2001:db8::1' }, '2001:db8::1'],
    [{ 'x-forwarded-for': '203.0.113.9/8' }, null],
    [{ 'x-real-ip': '203.0.113.9' }, null],
  ])('comes, with headers %j, from %s', (headers, ip) =>
    rolledBack(async (tx) => {
      await tx`select set_config('request.headers', ${JSON.stringify(headers)}, true)`

      expect(await tx`select host(private.request_ip()) as ip`).toEqual([{ ip }])
    }),
  )

  test('of a transaction that began before midnight belongs to the month it began in', () =>
    racing(2, async (sql) => {
      const marker = `month.n${crypto.randomUUID().replaceAll('-', '')}`.slice(0, 60)
      const at = (tx: Tx, moment: string) => tx`
        insert into private.audit_log (created_at, actor_role, action, resource_type, result, details)
        values (${moment}, 'postgres', ${marker}, 'thing', 'success', '{}')`

      await Promise.all([
        sql.begin(async (tx) => {
          await at(tx, '2019-03-31T23:59:59Z')
          await at(tx, '2019-04-01T00:00:00Z')
        }),
        sql.begin((tx) => at(tx, '2019-04-01T00:00:01Z')),
      ])

      expect(
        await sql`select private.audit_month(created_at)::text as month, count(*)::int as n
          from private.audit_log where action = ${marker} group by 1 order by 1`,
      ).toEqual([
        { month: '2019-03-01', n: 1 },
        { month: '2019-04-01', n: 2 },
      ])
      expect(await sql`select * from private.verify_audit_chain()`).toEqual([])
    }))

  test.each(['', 'nonsense', '999.1.1.1', "1.1.1.1'; drop table x"])('takes "%s" for no address', (header) =>
    rolledBack(async (tx) => {
      await tx`select set_config('request.headers', ${JSON.stringify({ 'x-forwarded-for': header })}, true)`

      expect(await tx`select private.request_ip() as ip`).toEqual([{ ip: null }])
    }),
  )
})

describe('the chain', () => {
  const three = ['a.first', 'a.second', 'a.third']

  test('is whole as it was written, and each entry has its place', () =>
    rolledBack(async (tx) => {
      await chainOf(tx, three)

      expect(await problems(tx)).toEqual([])
      expect(
        await tx`select count(distinct seq)::int as n from private.audit_log where created_at < '2020-03-01'`,
      ).toEqual([{ n: 3 }])
    }))

  test.each<[string, (tx: Tx, ids: string[]) => PromiseLike<unknown>, string]>([
    [
      'a changed field',
      (tx, [, id = '']) => tx`update private.audit_log set result = 'refused' where id = ${id}`,
      'changed',
    ],
    [
      'a changed time',
      (tx, [, id = '']) =>
        tx`update private.audit_log set created_at = created_at + interval '1 second' where id = ${id}`,
      'changed',
    ],
    [
      'a field moved to its neighbour',
      (tx, [, id = '']) => tx`update private.audit_log set user_agent = request_id, request_id = 'x' where id = ${id}`,
      'changed',
    ],
    [
      'an entry removed from the middle',
      (tx, [, id = '']) => tx`delete from private.audit_log where id = ${id}`,
      'missing or out of order',
    ],
    [
      'the last entry removed',
      (tx, [, , id = '']) => tx`delete from private.audit_log where id = ${id}`,
      'does not end at its head',
    ],
    [
      'all entries removed',
      (tx) => tx`delete from private.audit_log where created_at < '2020-03-01'`,
      'does not end at its head',
    ],
    [
      'two entries that change places',
      (tx) => tx`update private.audit_log set seq = 3 - seq where created_at < '2020-03-01' and seq < 3`,
      'changed',
    ],
    [
      'an entry slipped in without a seal',
      async (tx) => {
        await tx`alter table private.audit_log disable trigger tg_audit_log__seal`
        await tx`insert into private.audit_log (created_at, actor_role, action, resource_type, result, details)
          values ('2020-02-03T04:05:09Z', 'me', 'a.lie', 'thing', 'success', '{}')`
      },
      'not sealed',
    ],
    [
      'an entry slipped in with a hash of its own',
      async (tx) => {
        await tx`alter table private.audit_log disable trigger tg_audit_log__seal`
        await tx`insert into private.audit_log
            (created_at, actor_role, action, resource_type, result, details, seq, previous_hash, hash)
          select created_at, actor_role, 'a.lie', resource_type, result, details, seq + 1, hash, '\\x01'
          from private.audit_log where created_at < '2020-03-01' and seq = 3`
      },
      'does not end at its head',
    ],
    [
      'the head removed with all entries but one',
      async (tx, [id = '']) => {
        await tx`delete from private.audit_log where created_at < '2020-03-01' and id <> ${id}`
        await tx`alter table private.audit_chain_heads disable trigger tg_audit_chain_heads__no_delete`
        await tx`delete from private.audit_chain_heads where month = '2020-02-01'`
      },
      'does not end at its head',
    ],
  ])('shows %s', (_, change, problem) =>
    rolledBack(async (tx) => {
      const ids = (await chainOf(tx, three)).map(({ id }) => id)
      expect(await problems(tx)).toEqual([])

      const found = await tamper(tx, (inner) => change(inner, ids))

      expect(found.map((row) => row.problem).join('; ')).toContain(problem)
      // Without a head nobody knows that there was something new: that is for the whole chain to tell.
      if ((await tx`select from private.audit_chain_heads where month = '2020-02-01'`).length > 0)
        expect([...(await newProblems(tx))]).toEqual([...found])
    }),
  )

  test('is proven up to its end, and from there on again, without what was proven before', () =>
    rolledBack(async (tx) => {
      const [first] = await chainOf(tx, three)
      await tx`select private.prove_audit_entries()`
      expect(await provenTo(tx)).toBe(3)

      await tamper(tx, (inner) => inner`update private.audit_log set result = 'refused' where id = ${first?.id ?? ''}`)
      expect([...(await newProblems(tx))]).toEqual([])
      expect(await problems(tx)).toMatchObject([{ seq: 1, problem: 'changed' }])

      await chainOf(tx, ['a.fourth'])
      await tamper(tx, (inner) => inner`update private.audit_log set result = 'refused' where action = 'a.fourth'`)
      expect((await newProblems(tx)).map(({ seq }) => seq)).toEqual([1, 4])
    }))

  test('an entry of a transaction that took hours is found in its month', () =>
    rolledBack(async (tx) => {
      await chainOf(tx, three)
      await tx`select private.prove_audit_entries()`
      await chainOf(tx, ['a.late'])
      await tx`update private.audit_proofs set proven_at = '2020-02-20' where month = '2020-02-01'`

      expect([...(await newProblems(tx))]).toEqual([])
      await tx`select private.prove_audit_entries()`
      expect(await provenTo(tx)).toBe(4)
    }))

  test('that is broken is told, and not proven', () =>
    rolledBack(async (tx) => {
      await chainOf(tx, three)
      await tamper(tx, (inner) => inner`update private.audit_log set result = 'refused' where action = 'a.second'`)

      expect((await tx`select private.prove_audit_entries() as broken`)[0]?.broken).toBe(1)

      expect(await provenTo(tx)).toBeUndefined()
      expect(
        await tx`select severity, details from public.security_events where type = 'audit_chain_broken'`,
      ).toMatchObject([{ severity: 'critical', details: { month: '2020-02-01' } }])
    }))

  test('stays whole when 40 transactions append at once, lock accounts in between, and some roll back', () =>
    racing(40, async (sql, accounts) => {
      const people = [await accounts(), await accounts(), await accounts()]
      const marker = `race.n${crypto.randomUUID().replaceAll('-', '')}`.slice(0, 60)

      const results = await Promise.allSettled(
        Array.from({ length: 40 }, (_, n) =>
          sql.begin(async (tx) => {
            await audit(tx, marker, people[n % 3]?.id)
            await tx`select private.lock_account(${people[(n + 1) % 3]?.id ?? ''})`
            await audit(tx, marker, people[n % 3]?.id)
            if (n % 4 === 0) throw new Error('rolled back')
          }),
        ),
      )

      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(30)
      const reasons = results.flatMap((result) => (result.status === 'rejected' ? [String(result.reason)] : []))
      expect(new Set(reasons)).toEqual(new Set(['Error: rolled back']))
      expect(await sql`select count(*)::int as n from private.audit_log where action = ${marker}`).toEqual([{ n: 60 }])
      expect(await sql`select * from private.verify_audit_chain()`).toEqual([])
    }))
})

describe('who reads it', () => {
  const seenBy = (tx: Tx, userId: string) =>
    asUser(
      tx,
      userId,
      (as) => as`select action, host(ip) as ip from public.audit_log where action like 'test.%' order by action`,
    )

  test('owners see what concerns them, and not from where somebody else acted', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [(await newAccount(tx)).id, (await newAccount(tx)).id]
      const as = (actor: string, action: string) => tx`
        insert into private.audit_log (actor_id, actor_role, user_id, action, resource_type, result, ip, details)
        values (${actor}, 'authenticated', ${owner}, ${action}, 'thing', 'success', '203.0.113.5', '{}')`
      await as(owner, 'test.mine')
      await as(other, 'test.theirs')

      expect(await seenBy(tx, owner)).toEqual([
        { action: 'test.mine', ip: '203.0.113.5' },
        { action: 'test.theirs', ip: null },
      ])
      expect(await seenBy(tx, other)).toEqual([])
    }))
})

describe('what a user repeats', () => {
  const most = 100
  const entries = (tx: Tx, action: string) =>
    tx`select details from private.audit_log where action = ${action} and created_at = now()`
  const repeat = (tx: Tx, actor: string, owner: string | null, times: number) =>
    asUser(tx, actor, async (as) => {
      await as`select set_config('role', 'postgres', true)`
      for (let index = 0; index < times; index++) await audit(as, 'test.again', owner)
    })

  test('within an hour has so many entries, and one that tells of the rest', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await repeat(tx, id, id, most + 7)
      expect(await entries(tx, 'test.again')).toHaveLength(most)
      expect((await tx`select private.tell_of_audit_repeats() as told`)[0]?.told).toBe(0)
      await tx`update private.audit_repeats set hour = hour - interval '1 hour' where user_id = ${id}`

      const [first] = await tx`select private.tell_of_audit_repeats() as told`
      const [again] = await tx`select private.tell_of_audit_repeats() as told`

      expect([first?.told, again?.told]).toEqual([1, 0])
      expect(await entries(tx, 'audit.held_back')).toMatchObject([{ details: { action: 'test.again', entries: 7 } }])
    }))

  test('to accounts of others, or to none, always has its entry', () =>
    rolledBack(async (tx) => {
      const [admin, other] = [(await newAccount(tx)).id, (await newAccount(tx)).id]

      await repeat(tx, admin, other, most + 1)
      await repeat(tx, admin, null, most + 1)

      expect(await entries(tx, 'test.again')).toHaveLength(2 * most + 2)
    }))

  test('by the service or a job always has its entry', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      for (let index = 0; index <= most; index++) await audit(tx, 'test.again', id)

      expect(await entries(tx, 'test.again')).toHaveLength(most + 1)
    }))
})

describe('security events', () => {
  const raise = (sql: Sql | Tx, userId: string | null, key: string | null = null) => sql`
    select private.raise_security_event('test_event', 'high', ${userId}::uuid, '{}', ${key}) as id`

  test('the same event 20 times at once is one row that counts to 20 and one audit entry', () =>
    racing(20, async (sql, accounts) => {
      const { id } = await accounts()

      await Promise.all(Array.from({ length: 20 }, () => raise(sql, id, 'same')))

      expect(
        await sql`select occurrences from public.security_events where user_id = ${id} and type = 'test_event'`,
      ).toEqual([{ occurrences: 20 }])
      expect(
        await sql`select count(*)::int as n from private.audit_log where user_id = ${id} and action = 'security.test_event'`,
      ).toEqual([{ n: 1 }])
    }))

  test('of another user, key or window is another row', () =>
    rolledBack(async (tx) => {
      const [a, b] = [(await newAccount(tx)).id, (await newAccount(tx)).id]
      for (const [user, key] of [
        [a, 'x'],
        [a, 'y'],
        [b, 'x'],
        [null, 'x'],
        [null, 'x'],
      ] as const)
        await raise(tx, user, key)
      await tx`update private.security_events set dedupe_window = dedupe_window - 1 where user_id = ${b}`
      await raise(tx, b, 'x')

      const [row] = await tx`
        select count(*)::int as n from public.security_events where type = 'test_event' and created_at = now()`
      expect(row?.n).toBe(5)
    }))

  test('of one type about one account are so many rows, whatever keys somebody makes up', () =>
    rolledBack(async (tx) => {
      const [id, other] = [(await newAccount(tx)).id, (await newAccount(tx)).id]
      for (let index = 0; index < 60; index++) await raise(tx, id, `made up ${index}`)
      await raise(tx, id, 'made up 0')
      await raise(tx, other, 'made up 0')

      const rows = await tx`
        select user_id, dedupe_key, occurrences from public.security_events
        where type = 'test_event' and user_id in (${id}, ${other}) and (occurrences > 1 or user_id = ${other}) order by occurrences`

      expect(rows).toEqual([
        { user_id: other, dedupe_key: 'made up 0', occurrences: 1 },
        { user_id: id, dedupe_key: 'made up 0', occurrences: 2 },
        { user_id: id, dedupe_key: '(others)', occurrences: 40 },
      ])
    }))

  test('of an unknown severity is an error', () =>
    rolledBack(async (tx) => {
      const refused = await refusal(tx, (sp) => sp`select private.raise_security_event('x', 'terrible', null)`)

      expect(refused.sqlstate).toBe('23514')
    }))
})
