/** What Stripe says that has no meaning here: told once, counted, listed, and closed by who may. */
import { describe, expect, test } from 'vitest'
import { inSession } from './in-session.ts'
import { asRole, asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const note = async (tx: Tx, kind: string, value: string | null, object: string | null = null, details = {}) =>
  (
    await tx`
      select private.note_stripe_unknown(${kind}, ${value}, ${object}, ${JSON.stringify(details)}::text::jsonb) as answer`
  )[0]?.answer
const list = (tx: Tx) => tx`select kind, value, object_id, times::int from public.list_stripe_unknowns()`
const close = (tx: Tx, id: string) => tx`select public.handle_stripe_unknown(${id}) as at`
const idOf = async (tx: Tx, kind: string): Promise<string> =>
  String((await tx`select id from private.stripe_unknowns where kind = ${kind} order by id limit 1`)[0]?.id)
const told = (tx: Tx) =>
  tx`select severity, details from public.security_events where type = 'stripe_unknown' order by details ->> 'value'`

describe('something unknown of Stripe', () => {
  test('is told once for each kind and value, and counted with the first object that said it', () =>
    rolledBack(async (tx) => {
      const news = [
        await note(tx, 'price', 'price_new', 'sub_1', { product: 'prod_1' }),
        await note(tx, 'price', 'price_new', 'sub_2'),
        await note(tx, 'price', 'price_other', 'sub_3'),
      ]

      expect(news).toEqual([true, false, true])
      expect([...(await list(tx))]).toEqual([
        { kind: 'price', value: 'price_other', object_id: 'sub_3', times: 1 },
        { kind: 'price', value: 'price_new', object_id: 'sub_1', times: 2 },
      ])
      const details = { kind: 'price', value: 'price_new', object_id: 'sub_1', product: 'prod_1' }
      expect((await told(tx))[0]).toEqual({ severity: 'medium', details })
      expect(await told(tx)).toHaveLength(2)
    }))

  test('that has no name at all is one of its kind, too, and a long one is cut', () =>
    rolledBack(async (tx) => {
      const values = [null, '', 'x'.repeat(300), 'x'.repeat(299)]

      const news = []
      for (const value of values) news.push(await note(tx, 'product', value))

      expect(news).toEqual([true, false, true, false])
      expect((await list(tx)).map(({ value }) => value)).toEqual(['x'.repeat(255), 'none'])
    }))

  test('that was closed leaves the list, and is counted and told no more', () =>
    rolledBack(async (tx) => {
      await note(tx, 'price', 'price_new', 'sub_1')
      const id = await idOf(tx, 'price')

      const [first, again] = [(await close(tx, id))[0]?.at, (await close(tx, id))[0]?.at]
      await note(tx, 'price', 'price_new', 'sub_2')

      expect(again).toEqual(first)
      expect(await list(tx)).toHaveLength(0)
      expect(await told(tx)).toHaveLength(1)
      const [row] = await tx`select times::int from private.stripe_unknowns where id = ${id}`
      expect(row).toEqual({ times: 2 })
      expect(
        await tx`select from public.audit_log where action = 'stripe_unknown.handle' and resource_id = ${id}`,
      ).toHaveLength(1)
    }))

  test('is listed in pages that go on after the last of the page before', () =>
    rolledBack(async (tx) => {
      for (const n of [1, 2, 3, 4, 5]) await note(tx, 'price', `price_${n}`)
      const pages: string[][] = []
      for (let before: string | null = null; pages.length < 4; ) {
        const rows: { id: string; value: string }[] =
          await tx`select id, value from public.list_stripe_unknowns(${before}::bigint, 2)`
        if (rows.length === 0) break
        pages.push(rows.map(({ value }) => value))
        before = rows.at(-1)?.id ?? null
      }

      expect(pages).toEqual([['price_5', 'price_4'], ['price_3', 'price_2'], ['price_1']])
    }))
})

describe('who may see and close it', () => {
  test('not a user, and nobody without a token', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await note(tx, 'price', 'price_new')
      const unknown = await idOf(tx, 'price')

      const asks: ((as: Tx) => Promise<unknown>)[] = [list, (as) => close(as, unknown)]
      for (const ask of asks) {
        expect(await refusal(tx, (sp) => asUser(sp, id, ask))).toMatchObject({ code: 'not_allowed', status: 403 })
        expect((await refusal(tx, (sp) => asRole(sp, 'anon', { role: 'anon' }, ask))).sqlstate).toBe('42501')
      }
    }))

  test('an admin with the second factor, and the service role', () =>
    rolledBack(async (tx) => {
      const admin = await newAccount(tx)
      await tx`update public.profiles set role = 'admin' where id = ${admin.id}`
      await tx`update auth.sessions set aal = 'aal2' where id = ${admin.sessionId}`
      await note(tx, 'price', 'price_new')
      const unknown = await idOf(tx, 'price')

      const refused = await refusal(tx, (sp) => inSession(sp, admin, list))
      const seen = await inSession(tx, admin, list, { aal: 'aal2' })
      await asRole(tx, 'service_role', { role: 'service_role' }, (as) => close(as, unknown))

      expect(refused.code).toBe('insufficient_aal')
      expect(seen).toHaveLength(1)
      expect((await refusal(tx, (sp) => close(sp, '0'))).code).toBe('not_found')
    }))
})
