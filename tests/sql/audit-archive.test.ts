import { describe, expect, test } from 'vitest'
import { refusal, rolledBack, type Tx } from './support.ts'

const month = '2020-02-01'

/** A month of long ago with a partition and entries of its own. */
async function oldMonth(tx: Tx, entries: number): Promise<void> {
  await tx`create table private.audit_log_202002 (like private.audit_log including defaults including constraints)`
  await tx`
    alter table private.audit_log attach partition private.audit_log_202002 for values from ('2020-02-01Z') to ('2020-03-01Z')`
  await tx`
    insert into private.audit_log (created_at, actor_role, action, resource_type, result, details)
    select '2020-02-03T04:05:06Z'::timestamptz + n * interval '1 second', 'postgres', 'a.b', 'thing', 'success', '{"n": 1.50}'
    from generate_series(1, ${entries}) n`
  await tx`set constraints all immediate`
  await tx`update private.settings set value = '2' where key = 'audit.archive_part_entries'`
}

const next = async (tx: Tx) => (await tx`select private.next_audit_archive() as part`)[0]?.part
const record = (tx: Tx, part: unknown) => tx`
  select private.record_audit_archive(${JSON.stringify(part)}::text::jsonb, ${'0'.repeat(64)}, 'x')`
const drop = (tx: Tx) => tx`select private.drop_archived_audit_month(${month}) as dropped`
const isThere = async (tx: Tx) =>
  (await tx`select to_regclass('private.audit_log_202002') is not null as there`)[0]?.there
const problems = (tx: Tx) => tx`select problem from private.verify_audit_chain() where month = ${month}`

describe('a month is not dropped', () => {
  test('before it ended audit.online_days ago', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 1)
      await tx`update private.settings set value = '100000' where key = 'audit.online_days'`

      expect(await next(tx)).toBeNull()
    }))

  test('while a part of it is not archived', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 3)
      await record(tx, await next(tx))

      const refused = await refusal(tx, drop)

      expect(refused.message).toBe('month 2020-02-01 is not archived as it is')
      expect(await isThere(tx)).toBe(true)
    }))

  test('when its chain is broken: that is a critical event, and it stays for people to look at', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 2)
      await record(tx, await next(tx))
      await tx`alter table private.audit_log disable trigger tg_audit_log__append_only`
      await tx`update private.audit_log set action = 'a.lie' where created_at < '2020-03-01'`

      expect(await next(tx)).toBeNull()
      expect((await refusal(tx, drop)).message).toContain('is not archived')
      expect(
        await tx`select severity from public.security_events where type = 'audit_chain_broken' and dedupe_key = ${month}`,
      ).toEqual([{ severity: 'critical' }])
    }))

  test('by anybody else: a partition that is gone without an archive shows', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 2)

      await tx`drop table private.audit_log_202002`

      expect(await problems(tx)).toEqual([{ problem: expect.stringContaining('does not end at its head') }])
    }))

  test('by anybody else: an archive that ends elsewhere than the chain does not cover it up', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 3)
      await record(tx, await next(tx))

      await tx`drop table private.audit_log_202002`

      expect(await problems(tx)).toHaveLength(1)
    }))
})

describe('a month that is due', () => {
  test('is archived in parts that continue each other, dropped, and whole to the verification', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 3)

      const first = await next(tx)
      await record(tx, first)
      await record(tx, first)
      const second = await next(tx)
      await record(tx, second)

      expect(first).toEqual({ month, part: 1, first_seq: 1, last_seq: 2, is_complete: false })
      expect(second).toEqual({ month, part: 2, first_seq: 3, last_seq: 3, is_complete: false })
      expect(await next(tx)).toMatchObject({ month, is_complete: true })
      expect(await drop(tx)).toEqual([{ dropped: true }])
      expect(await drop(tx)).toEqual([{ dropped: false }])
      expect(await problems(tx)).toEqual([])
      expect(await next(tx)).toBeNull()
    }))

  test('has nothing to archive and is dropped when nothing happened in it', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 0)
      await tx`insert into private.audit_chain_heads (month, seq, hash) values (${month}, 0, '')`

      expect(await next(tx)).toMatchObject({ month, is_complete: true })
      expect(await drop(tx)).toEqual([{ dropped: true }])
    }))

  test('comes back from its lines as it was: every hash fits', () =>
    rolledBack(async (tx) => {
      await oldMonth(tx, 2)
      const lines = await tx`select line from private.read_audit_entries(${month}, 1, 2) line`

      const restored = await tx`
        select e.hash = private.audit_hash(e, e.seq, e.previous_hash) as fits
        from unnest(${lines.map(({ line }) => line)}::text[]) line
          cross join lateral jsonb_populate_record(null::private.audit_log, line::jsonb) e`

      expect(restored).toEqual([{ fits: true }, { fits: true }])
    }))
})
