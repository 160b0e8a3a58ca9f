/** Statements of functions by way of a pooler in transaction mode, and what they cost. */
import { connect, createServer, type Server } from 'node:net'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { answer, callSql, connectDatabase, type Database, nothing } from '../../functions/_shared/db.ts'
import { describeFailure } from '../../functions/_shared/failure.ts'
import { type PgBouncer, startPgBouncer } from '../../scripts/shared/pgbouncer.ts'
import { freePort, type Scratch, startScratch } from '../../stack/platform/scratch.ts'
import { describeWithDebian } from '../support/debian.ts'

describeWithDebian(['pgbouncer'], 'by way of PgBouncer', () => {
  let scratch: Scratch
  let pgBouncer: PgBouncer
  const direct = { postgres: '', login: '' }
  beforeAll(async () => {
    scratch = await startScratch()
    direct.postgres = await scratch.createDatabase('pooled')
    const admin = postgres(direct.postgres, { max: 1 })
    await admin`create role timed_login login password 'a password'`
    await admin`alter role timed_login set statement_timeout = '200ms'`
    await admin.end()
    direct.login = direct.postgres.replace(/\/\/[^@]+@/, '//timed_login:a%20password@')
    pgBouncer = await startPgBouncer({ port: scratch.port, superuserPassword: scratch.keys.passwords.supabase_admin })
  })
  afterAll(async () => {
    await pgBouncer.stop()
    await scratch.stop()
  })

  const open: Database[] = []
  afterEach(async () => {
    for (const sql of open.splice(0)) await sql.end({ timeout: 1 })
  })
  const pooled = (url: string, options: Parameters<typeof connectDatabase>[1] = {}) => {
    const sql = connectDatabase(pgBouncer.urlFor(url), options)
    open.push(sql)
    return sql
  }
  const sleeps = (sql: Database) => callSql(sql`select pg_sleep(${20})`, nothing).catch(describeFailure)
  const timedOut = 'Postgres: 57014 ProcessInterrupts'

  test('a session that is not told of the pooler is refused, because it begins with a timeout', async () => {
    const sql = connectDatabase(pgBouncer.urlFor(direct.postgres, ''))
    open.push(sql)

    expect(await callSql(sql`select 1 as answer`, answer(z.int())).catch(describeFailure)).toMatch(/^Postgres: 08P01/)
  })

  test('statements end in time: by their own transaction, or by the setting of their role', async () => {
    expect(await sleeps(pooled(direct.postgres, { statementTimeoutMs: 200 }))).toBe(timedOut)
    expect(await sleeps(pooled(direct.login, { isTimedByRole: true }))).toBe(timedOut)
  })

  test('a timeout is that of one caller, and nobody else who gets the session', async () => {
    const hurried = pooled(direct.postgres, { statementTimeoutMs: 200 })
    const patient = pooled(direct.postgres, { statementTimeoutMs: 60_000 })
    const setting = (sql: Database) =>
      callSql(sql`select current_setting('statement_timeout') as answer`, answer(z.string()))

    const settings = await Promise.all([1, 2, 3, 4, 5].flatMap(() => [setting(hurried), setting(patient)]))

    expect(settings).toEqual([1, 2, 3, 4, 5].flatMap(() => ['200ms', '1min']))
  })

  test('what fails leaves nothing open, and the next statement is well', async () => {
    const sql = pooled(direct.postgres)
    await expect(callSql(sql`select ${1}::int / 0`, nothing)).rejects.toThrow()
    await expect(callSql(sql`select nonsense`, nothing)).rejects.toThrow()

    expect(await callSql(sql`select ${41}::int + 1 as answer`, answer(z.int()))).toBe(42)
    const left = await callSql(
      sql`select count(*)::int as answer from pg_stat_activity where state like 'idle in transaction%'`,
      answer(z.int()),
    )
    expect(left).toBe(0)
  })

  test('what is written is kept, and what fails after it is not', async () => {
    const sql = pooled(direct.postgres)
    await callSql(sql`create table public.kept (n int check (n < 5))`, nothing)
    await callSql(sql`insert into public.kept values (${1})`, nothing)
    await expect(callSql(sql`insert into public.kept values (${2}), (${5})`, nothing)).rejects.toThrow()

    expect(await callSql(sql`select array_agg(n) as answer from public.kept`, answer(z.array(z.int())))).toEqual([1])
  })

  test('a deadline cancels the statement at the server', async () => {
    const sql = pooled(direct.postgres, { statementTimeoutMs: 60_000 })
    await expect(callSql(sql`select pg_sleep(50)`, nothing, { deadlineMs: 300 })).rejects.toThrow()

    const running = () =>
      callSql(
        sql`select count(*)::int as answer from pg_stat_activity
          where state = 'active' and query like '%pg_sleep(50)%' and pid <> pg_backend_pid()`,
        answer(z.int()),
      )
    await expect.poll(running).toBe(0)
  })

  test('many callers share few sessions without a prepared statement', async () => {
    const callers = [1, 2].map(() => pooled(direct.postgres))
    const ask = (sql: Database, n: number) => callSql(sql`select ${n}::int as answer`, answer(z.int()))
    const numbers = Array.from({ length: 100 }, (_, n) => n)

    for (const sql of callers) expect(await Promise.all(numbers.map((n) => ask(sql, n)))).toEqual(numbers)
    const prepared = await callSql(
      pooled(direct.postgres)`select count(*)::int as answer from pg_prepared_statements`,
      answer(z.int()),
    )
    expect(prepared).toBe(0)
  })

  test('a way that costs the gateway no round trip more, and others two', async () => {
    const trips = async (url: string, options: Parameters<typeof connectDatabase>[1]) => {
      const counter = await startCounter(Number(new URL(url).port))
      const way = new URL(url)
      way.port = String(counter.port)
      const sql = connectDatabase(way.href, options)
      const ask = () => callSql(sql`select ${1}::int as answer`, answer(z.int()))
      try {
        // The first one connects.
        await ask()
        const before = counter.trips()
        await ask()
        return counter.trips() - before
      } finally {
        await sql.end({ timeout: 1 })
        counter.close()
      }
    }
    const unprepared = await trips(pgBouncer.urlFor(direct.login), { isTimedByRole: true })

    expect(await trips(direct.postgres, {})).toBe(1)
    // To describe the parameters, and to run: what a statement that is not prepared costs anyway.
    expect(unprepared).toBe(2)
    expect(await trips(pgBouncer.urlFor(direct.postgres), {})).toBe(unprepared + 2)
  })
})

/** Counts how often the client speaks after the server did: the round trips. */
async function startCounter(to: number) {
  const port = await freePort()
  let trips = 0
  const server: Server = createServer((client) => {
    const upstream = connect(to, '127.0.0.1')
    let isAnswered = true
    client.on('data', (chunk) => {
      if (isAnswered) trips += 1
      isAnswered = false
      upstream.write(chunk)
    })
    upstream.on('data', (chunk) => {
      isAnswered = true
      client.write(chunk)
    })
    const end = () => {
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) socket.on('close', end).on('error', end)
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return { port, trips: () => trips, close: () => void server.close() }
}
