import { describe, expect, test } from 'vitest'
import { asRole, newAccount, rolledBack, type Tx } from './support.ts'

const entriesOf = (tx: Tx, table: string) => tx<
  { action: string; id: string; role: string; details: Record<string, Record<string, unknown>> }[]
>`
  select action, resource_id as id, actor_role as role, details from private.audit_log
  where resource_type = ${table} and created_at = now() order by id`

describe('what an operator changes', () => {
  test('is told with the row before and after', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '9' where key = 'billing.grace_days'`

      const [entry] = await entriesOf(tx, 'settings')

      expect(entry).toMatchObject({ action: 'settings.update', id: 'billing.grace_days' })
      expect(entry?.details.before?.value).toBe(7)
      expect(entry?.details.after?.value).toBe(9)
    }))

  test('is told when the service role does it by the Data API', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      await asRole(
        tx,
        'service_role',
        { role: 'service_role' },
        () => tx`
        insert into public.limit_overrides (user_id, meter, period, amount) values (${id}, 'ai_calls', 'day', 7)`,
      )

      const [entry] = await entriesOf(tx, 'limit_overrides')

      expect(entry).toMatchObject({ action: 'limit_overrides.create', id: `${id} ai_calls day` })
      expect(entry?.details.after?.amount).toBe(7)
    }))

  test('is no news when nothing has changed', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = value, updated_at = now()`

      expect(await entriesOf(tx, 'settings')).toEqual([])
    }))

  test('is told in every table whose rows decide what others may do or pay', () =>
    rolledBack(async (tx) => {
      const watched = await tx`
        select c.relname as name from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where t.tgfoid = 'private.tg__operator_change()'::regprocedure and not c.relispartition order by 1`

      expect(watched.map(({ name }) => name)).toEqual([
        'billing_notices',
        'credit_packs',
        'dunning_steps',
        'limit_overrides',
        'model_fallbacks',
        'model_prices',
        'models',
        'plan_features',
        'plan_limits',
        'plan_models',
        'plan_prices',
        'plans',
        'providers',
        'settings',
      ])
    }))

  test('is told of a deleted row, too, and of one that is too long for the log by its digest', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = (select jsonb_agg(repeat('a', 60) || i) from generate_series(1, 400) i)
        where key = 'notifications.mail_types'`
      await tx`delete from private.dunning_steps where position = 3`

      const [long] = await entriesOf(tx, 'settings')
      const [gone] = await entriesOf(tx, 'dunning_steps')

      expect(long?.details).toMatchObject({ too_long: true, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) })
      expect(gone).toMatchObject({ action: 'dunning_steps.delete', id: '3' })
      expect(gone?.details.before?.notice).toBe('dunning_access_ended')
    }))
})
