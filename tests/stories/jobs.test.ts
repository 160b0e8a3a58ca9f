/** Mail and archive as they happen: SQL, the real functions server, SMTP, storage. */
import { createHash } from 'node:crypto'
import { gunzipSync } from 'node:zlib'
import postgres from 'postgres'
import { afterAll, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { clientWith, newUser } from '../support/users.ts'
import { target } from '../target.ts'

const connection: { sql?: postgres.Sql } = {}
const db = (): postgres.Sql => {
  connection.sql ??= postgres(target().dbUrl, { max: 2, onnotice: () => {} })
  return connection.sql
}
afterAll(() => connection.sql?.end())

const callJob = (path: string, apikey: string) =>
  fetch(`${target().functionsUrl}/jobs/${path}`, { method: 'POST', headers: { apikey } })

describe('jobs', () => {
  test.each(['send-mails', 'archive-audit'])('%s refuses everybody without a secret key', async (path) => {
    expect((await callJob(path, target().publishableKey)).status).toBe(401)
  })

  test('a notification of a mailed type arrives in the mailbox of the account, by SMTP', async () => {
    const user = await newUser()
    await db()`
      select private.notify_user(user_id => ${user.id}, type => 'new_device', title => 'Neues Gerät', body => 'Grüße aus Łódź')`

    const answer = await callJob('send-mails', target().secretKey)

    expect(answer.status).toBe(200)
    await expect
      .poll(() => db()`select state from private.mails where user_id = ${user.id}`, { timeout: 20_000 })
      .toEqual([{ state: 'sent' }])
    const found = await fetch(`${target().mailUrl}/api/v1/search?query=${encodeURIComponent(`to:${user.email}`)}`)
    const { messages } = z.object({ messages: z.array(z.unknown()) }).parse(await found.json())
    expect(messages[0]).toMatchObject({ Subject: 'Neues Gerät', Snippet: 'Grüße aus Łódź' })
  })
})

describe('an old month of the audit log', () => {
  test('goes to storage with every line and hash, and then leaves the database; no user reaches the file', async () => {
    const sql = db()
    const user = await newUser()
    const month = '2020-05-01'
    await sql`create table private.audit_log_202005 (like private.audit_log including defaults including constraints)`
    await sql`
      alter table private.audit_log attach partition private.audit_log_202005 for values from ('2020-05-01Z') to ('2020-06-01Z')`
    await sql`
      insert into private.audit_log (created_at, actor_role, action, resource_type, result, details)
      select '2020-05-03T04:05:06Z'::timestamptz + n * interval '1 second', 'postgres', 'a.b', 'thing', 'success', '{}'
      from generate_series(1, 5) n`

    expect((await callJob('archive-audit', target().secretKey)).status).toBe(200)

    const [archive] = await sql`select path, sha256 from private.audit_archives where month = ${month}`
    const { data } = await clientWith(target().secretKey).storage.from('audit-archive').download(archive?.path)
    const bytes = Buffer.from((await data?.arrayBuffer()) ?? new ArrayBuffer(0))
    expect(createHash('sha256').update(bytes).digest('hex')).toBe(archive?.sha256)
    expect(gunzipSync(bytes).toString().trim().split('\n')).toHaveLength(5)
    expect(await sql`select to_regclass('private.audit_log_202005') as there`).toEqual([{ there: null }])
    expect(await sql`select * from private.verify_audit_chain() where month = ${month}`).toEqual([])
    expect((await user.client.storage.from('audit-archive').download(archive?.path)).error).not.toBeNull()
    expect((await user.client.storage.from('audit-archive').list()).data ?? []).toEqual([])
  })
})

describe('what SQL knows of a REST request', () => {
  test('is where it came from, whatever the caller claims, for tables as for functions', async () => {
    const sql = db()
    const view = `test_request_${crypto.randomUUID().slice(0, 8)}`
    await sql.unsafe(`
      create view public.${view} with (security_invoker = true) as
        select current_setting('request.headers', true)::json as headers, current_setting('request.method', true) as method;
      grant select on public.${view} to anon;
      notify pgrst, 'reload schema'`)
    try {
      const ask = async () => {
        const response = await fetch(`${target().restUrl}/${view}?select=headers,method`, {
          headers: {
            apikey: target().publishableKey,
            'user-agent': 'Tester/1.0',
            'x-request-id': 'req-1',
            'x-forwarded-for': '6.6.6.6',
            'cf-connecting-ip': '6.6.6.6',
          },
        })
        return response.json()
      }
      await expect.poll(ask).toMatchObject([
        {
          method: 'GET',
          headers: { 'user-agent': 'Tester/1.0', 'x-request-id': 'req-1', 'x-forwarded-for': '127.0.0.1' },
        },
      ])
      expect(JSON.stringify(await ask())).not.toContain('6.6.6.6')
    } finally {
      await sql.unsafe(`drop view public.${view}`)
    }
  })
})
