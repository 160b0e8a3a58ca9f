import { describe, expect, test } from 'vitest'
import { isJobToken } from '../../functions/_shared/auth/job-token.ts'
import { asUser, newAccount, racing, refusal, rolledBack, type Sql, setLimit, type Tx } from './support.ts'

const notify = (sql: Sql | Tx, userId: string | null, type: string, title = 'Title') => sql`
  select private.notify_user(user_id => ${userId}::uuid, type => ${type}, title => ${title}, body => 'Body') as id`
const mailsOf = (sql: Sql | Tx, userId: string) => sql`
  select subject, body, state, attempts, error from private.mails where user_id = ${userId}`
const makeDue = (tx: Tx, userId: string) =>
  tx`update private.mails set next_attempt_at = now() where user_id = ${userId}`
const claim = (tx: Tx) => tx`select * from private.claim_mails(1000)`
const finish = async (tx: Tx, id: string, attempt: number, error: string | null) =>
  (await tx`select private.finish_mail(${id}, ${attempt}, ${error}) as state`)[0]?.state

describe('notifications', () => {
  test.each([
    ['no user', null, 'new_device', 'Title', '23502'],
    ['no such user', crypto.randomUUID(), 'new_device', 'Title', '23503'],
    ['an empty title', undefined, 'new_device', '', '23514'],
    ['a strange type', undefined, 'New device!', 'Title', '23514'],
  ] as const)('for %s are an error', (_, userId, type, title, sqlstate) =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      expect((await refusal(tx, (sp) => notify(sp, userId === undefined ? id : userId, type, title))).sqlstate).toBe(
        sqlstate,
      )
    }),
  )

  test('belong to their owner, who reads, marks and deletes them and changes nothing else', () =>
    rolledBack(async (tx) => {
      const [owner, other] = [(await newAccount(tx)).id, (await newAccount(tx)).id]
      await notify(tx, owner, 'plain')
      const mark = (as: Tx) => as`update public.notifications set read_at = now() where user_id = ${owner}`

      expect((await asUser(tx, other, mark)).count).toBe(0)
      expect(
        (await asUser(tx, other, (as) => as`delete from public.notifications where user_id = ${owner}`)).count,
      ).toBe(0)
      const rewrite = (sp: Tx) =>
        asUser(sp, owner, (as) => as`update public.notifications set body = 'x' where user_id = ${owner}`)
      expect((await refusal(tx, rewrite)).sqlstate).toBe('42501')
      expect((await asUser(tx, owner, mark)).count).toBe(1)
      expect(
        (await asUser(tx, owner, (as) => as`delete from public.notifications where user_id = ${owner}`)).count,
      ).toBe(1)
    }))

  test('are mailed when notifications.mail_types names their type, in the same transaction', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)

      await notify(tx, id, 'plain')
      expect(await mailsOf(tx, id)).toEqual([])

      await notify(tx, id, 'new_device', 'A new device')
      expect(await mailsOf(tx, id)).toEqual([
        { subject: 'A new device', body: 'Body', state: 'waiting', attempts: 0, error: null },
      ])
    }))
})

describe('the outbox', () => {
  test('gives each mail to one of many workers', () =>
    racing(10, async (sql, accounts) => {
      const { id } = await accounts()
      await sql`update private.settings set value = '30' where key = 'mail.max_per_hour'`
      await Promise.all(Array.from({ length: 30 }, () => notify(sql, id, 'new_device')))
      await sql`update private.settings set value = '3' where key = 'mail.max_per_hour'`

      const claims = await Promise.all(
        Array.from({ length: 10 }, () => sql`select id, address from private.claim_mails(50)`),
      )

      const own = claims.flat().filter(({ address }) => address === `sql-${id}@example.com`)
      expect(new Set(own.map((mail) => mail.id)).size).toBe(30)
      expect(own).toHaveLength(30)
    }))

  test('tries again what failed, later each time, and gives up after mail.max_attempts', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await notify(tx, id, 'new_device')
      await tx`update private.settings set value = '2' where key = 'mail.max_attempts'`

      const [first] = await claim(tx)
      expect(await finish(tx, first?.id, 1, 'refused')).toBe('waiting')
      expect(await claim(tx)).toEqual([])
      await makeDue(tx, id)
      const [second] = await claim(tx)
      expect(second).toMatchObject({ id: first?.id, attempt: 2 })
      expect(await finish(tx, second?.id, 2, 'refused again')).toBe('dead')

      expect(await mailsOf(tx, id)).toMatchObject([{ state: 'dead', attempts: 2, error: 'refused again' }])
    }))

  test('gives the mail of a worker that died to another, and the first one can no longer finish it', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await notify(tx, id, 'new_device')
      const [lost] = await claim(tx)
      await makeDue(tx, id)

      const [found] = await claim(tx)

      expect(found?.id).toBe(lost?.id)
      expect(await finish(tx, lost?.id, 1, null)).toBeNull()
      expect(await finish(tx, lost?.id, 2, null)).toBe('sent')
    }))

  test('gives up a mail whose worker dies at every try, and one to an account without an address', () =>
    rolledBack(async (tx) => {
      const [id, silent] = [(await newAccount(tx)).id, (await newAccount(tx)).id]
      await notify(tx, id, 'new_device')
      await notify(tx, silent, 'new_device')
      await tx`update private.settings set value = '1' where key = 'mail.max_attempts'`
      // Never verified: there is no owner to tell of it.
      await tx`update auth.users set email_confirmed_at = null where id = ${silent}`
      await tx`update auth.users set email = null where id = ${silent}`

      await claim(tx)
      await makeDue(tx, id)
      expect(await claim(tx)).toEqual([])

      expect(await mailsOf(tx, id)).toMatchObject([{ state: 'dead', error: 'nobody came back from the last try' }])
      expect(await mailsOf(tx, silent)).toMatchObject([{ state: 'dead', error: 'the account has no e-mail address' }])
    }))
})

describe('too many', () => {
  const many = async (tx: Tx, userId: string, type: string, times: number) => {
    for (let index = 1; index <= times; index++) await notify(tx, userId, type, `${type} ${index}`)
  }
  /** What happened so far happened before that. */
  const ago = (tx: Tx, userId: string, interval: string) => tx`
    with counts as (update private.notice_counts set hour_ends_at = hour_ends_at - ${interval}::interval where user_id = ${userId})
    update private.mails set created_at = created_at - ${interval}::interval where user_id = ${userId}`
  const digests = async (tx: Tx) => (await tx`select private.write_mail_digests() as written`)[0]?.written

  test('mails of a type within an hour become one that tells how many there were', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await many(tx, id, 'account_locked', 200)
      await many(tx, id, 'new_device', 5)
      expect(await mailsOf(tx, id)).toHaveLength(6)
      expect(await digests(tx)).toBe(0)

      await ago(tx, id, '1 hour')
      expect([await digests(tx), await digests(tx)]).toEqual([1, 0])

      const [digest] = (await mailsOf(tx, id)).filter(
        ({ subject }) => subject === '199 more notices about your account',
      )
      expect(digest?.body).toMatch(/\n197 x account_locked 200, last at .* UTC\n2 x new_device 5, last at /)
    }))

  test('digests come once an hour, however many types there are', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await many(tx, id, 'new_device', 4)
      await ago(tx, id, '1 hour')
      await digests(tx)
      await many(tx, id, 'new_network', 4)
      await tx`update private.notice_counts set hour_ends_at = now() where user_id = ${id}`

      expect(await digests(tx)).toBe(0)
      await ago(tx, id, '1 hour')
      expect(await digests(tx)).toBe(1)
    }))

  test('notifications of a type within an hour write the last one anew, unread', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await many(tx, id, 'plain', 20)
      await tx`update public.notifications set read_at = now() where user_id = ${id}`

      await many(tx, id, 'plain', 7)

      const rows = await tx`
        select title, occurrences, read_at is null as is_new from public.notifications where user_id = ${id} and occurrences > 1`
      expect(rows).toEqual([{ title: 'plain 7', occurrences: 8, is_new: true }])
      expect(await tx`select from public.notifications where user_id = ${id}`).toHaveLength(20)
    }))

  test('notifications in all are as many as the plan keeps, and the oldest go', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await setLimit(tx, id, 'notifications', 'total', 3)
      for (const type of ['a', 'b', 'c', 'd', 'e']) await notify(tx, id, type)

      const kept = await tx`select type from public.notifications where user_id = ${id} order by type`

      expect(kept.map(({ type }) => type)).toEqual(['c', 'd', 'e'])
    }))

  test('of 40 mails at the same time no more go out than may', () =>
    racing(20, async (sql, accounts) => {
      const { id } = await accounts()

      await Promise.all(Array.from({ length: 40 }, () => notify(sql, id, 'new_device')))

      expect(await mailsOf(sql, id)).toHaveLength(3)
      expect(await sql`select mails_held from private.notice_counts where user_id = ${id}`).toEqual([
        { mails_held: 37 },
      ])
    }))

  test('mails to one keep nobody waiting', () =>
    rolledBack(async (tx) => {
      const [flooded, other] = [(await newAccount(tx)).id, (await newAccount(tx)).id]
      for (const type of ['new_device', 'new_network', 'password_changed', 'mfa_removed'])
        await many(tx, flooded, type, 3)
      await notify(tx, other, 'new_device')
      await tx`update private.mails set next_attempt_at = now() - interval '1 minute' where user_id = ${flooded}`

      const claimed = await tx`select address from private.claim_mails(2)`

      expect(claimed.map(({ address }) => address).toSorted()).toEqual(
        [`sql-${flooded}@example.com`, `sql-${other}@example.com`].toSorted(),
      )
    }))
})

describe('the clock', () => {
  const queue = (tx: Tx) => tx`select url, headers from net.http_request_queue where url like '%functions.test%'`
  const forget = (tx: Tx) => tx`
    select vault.update_secret(id, null, 'palisade_secret_key_before') from vault.secrets where name = 'palisade_secret_key'`
  const events = (tx: Tx) => tx`
    select severity, occurrences from public.security_events where type = 'jobs_not_configured' and created_at = now()`

  test('calls nothing without address and key, and says so once a day', () =>
    rolledBack(async (tx) => {
      await forget(tx)
      await tx`update private.security_events set last_seen_at = now() - interval '2 days', dedupe_window = dedupe_window - 50
        where type = 'jobs_not_configured'`

      await tx`select private.call_jobs_function('send-mails')`
      await tx`select private.call_jobs_function('archive-audit')`

      expect(await events(tx)).toEqual([{ severity: 'low', occurrences: 1 }])
    }))

  test('calls the function when a mail is due, and only then, with a token that opens this job and holds no key', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await forget(tx)
      await tx`select vault.create_secret('the-key', 'palisade_secret_key')`
      await tx`update private.settings set value = '"https://functions.test/"' where key = 'jobs.functions_url'`
      await tx`update private.mails set state = 'sent' where state = 'waiting'`

      await tx`select private.call_send_mails()`
      expect(await queue(tx)).toEqual([])

      await notify(tx, id, 'new_device')
      await tx`select private.call_send_mails()`
      const [call, ...others] = await queue(tx)
      const opens = (job: string) => isJobToken(call?.headers['x-job-token'], job, { a: 'the-key' }, Date.now())
      expect(others).toEqual([])
      expect(call?.url).toBe('https://functions.test/jobs/send-mails')
      expect(JSON.stringify(call)).not.toContain('the-key')
      expect([await opens('send-mails'), await opens('archive-audit')]).toEqual([true, false])
    }))

  test('deletes old notifications, events and finished mails, and no mail that still waits', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await notify(tx, id, 'new_device')
      await notify(tx, id, 'new_network')
      await tx`update private.mails set created_at = '2020-01-01', state = case type_n when 1 then 'sent' else state end
        from (select id as mail_id, row_number() over () as type_n from private.mails where user_id = ${id}) n
        where mail_id = mails.id`
      await tx`update public.notifications set created_at = '2020-01-01' where user_id = ${id}`

      await tx`select private.delete_old_messages()`

      expect(await mailsOf(tx, id)).toMatchObject([{ state: 'waiting' }])
      expect(await tx`select from public.notifications where user_id = ${id}`).toHaveLength(0)
    }))
})
