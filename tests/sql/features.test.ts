/** What a plan includes, and how who has it no more is refused: with the reason and the link to pay. */
import { describe, expect, test } from 'vitest'
import { admit, newModel } from './ai-support.ts'
import { putInvoice, putSubscription, type Subscription } from './entitlement-support.ts'
import { newConnection } from './portfolio-support.ts'
import { type Account, asUser, newAccount, refusal, rolledBack, type Tx } from './support.ts'

const onlyPremium = (tx: Tx, feature: string) => tx`
  delete from public.plan_features where feature = ${feature} and plan_id <> 'premium'`
const require = (tx: Tx, { id }: Account, feature = 'own_keys') => tx`select private.require_feature(${id}, ${feature})`

describe('require_feature', () => {
  test.each<[string, Subscription | null, string]>([
    ['who never paid', null, 'Your plan does not include own keys. Pay or choose a plan: /billing'],
    [
      'who owes a payment for too long',
      { status: 'past_due', past_due_since: '-8 days' },
      'Your last payment is overdue, and the plan Free does not include own keys. Pay or choose a plan: /billing',
    ],
    [
      'who cancelled',
      { period_end: '-1 second', cancel_at_period_end: true },
      'Your subscription has ended, and the plan Free does not include own keys. Pay or choose a plan: /billing',
    ],
    [
      'who paused',
      { status: 'paused' },
      'Your subscription is paused, and the plan Free does not include own keys. Pay or choose a plan: /billing',
    ],
  ])('refuses %s', (_, subscription, message) =>
    rolledBack(async (tx) => {
      await onlyPremium(tx, 'own_keys')
      const account = await newAccount(tx)
      if (subscription) await putSubscription(tx, account.id, subscription)

      expect(await refusal(tx, (sp) => require(sp, account))).toEqual({
        sqlstate: 'PGRST',
        code: 'entitlement_required',
        status: 402,
        message,
      })
    }),
  )

  test('names the page of the open invoice, in the hint, too', () =>
    rolledBack(async (tx) => {
      await onlyPremium(tx, 'own_keys')
      const account = await newAccount(tx)
      const subscription = await putSubscription(tx, account.id, { status: 'unpaid' })
      await putInvoice(tx, account.id, { subscription, payUrl: 'https://pay.test/open' })

      const [row] = await tx`select private.feature_refusal(${account.id}, 'own_keys') as r`
      expect(row?.r).toMatchObject({
        hint: 'Pay or choose a plan: https://pay.test/open',
        message: expect.stringContaining('https://pay.test/open'),
      })
    }))

  test('lets in who has it, by payment or by the operator, and nobody to what is in no plan', () =>
    rolledBack(async (tx) => {
      await onlyPremium(tx, 'own_keys')
      const [payer, favourite] = [await newAccount(tx), await newAccount(tx)]
      await putSubscription(tx, payer.id)
      await tx`update public.profiles set plan_id = 'premium' where id = ${favourite.id}`

      await require(tx, payer)
      await require(tx, favourite)
      expect(await refusal(tx, (sp) => require(sp, payer, 'teleport'))).toMatchObject({ code: 'entitlement_required' })
    }))
})

test('who is signed in sees what plans include', () =>
  rolledBack(async (tx) => {
    const { id } = await newAccount(tx)
    const rows = await asUser(
      tx,
      id,
      (as) => as`select feature from public.plan_features where plan_id = 'free' order by 1`,
    )

    expect(rows.map((row) => row.feature)).toEqual(['own_keys', 'portfolio_sync'])
  }))

describe('has_feature', () => {
  const has = (tx: Tx, id: string) =>
    asUser(tx, id, async (as) => (await as`select private.has_feature('own_keys') as answer`)[0]?.answer)

  test('is the caller’s', () =>
    rolledBack(async (tx) => {
      await onlyPremium(tx, 'own_keys')
      const [payer, other] = [await newAccount(tx), await newAccount(tx)]
      await putSubscription(tx, payer.id)

      expect([await has(tx, payer.id), await has(tx, other.id)]).toEqual([true, false])
      const [row] = await tx`select private.has_feature('own_keys') as nobody`
      expect(row?.nobody).toBe(false)
    }))
})

describe('a portfolio', () => {
  const leased = async (tx: Tx, of: Account | null) =>
    (await tx`select user_id from private.lease_portfolio_sync(100, ${of?.id ?? null}, ${of?.sessionId ?? null})`).map(
      (row) => row.user_id,
    )

  test('is synced at once, and by schedule, only with the feature', () =>
    rolledBack(async (tx) => {
      const { account } = await newConnection(tx)
      await onlyPremium(tx, 'portfolio_sync')

      expect(await leased(tx, null)).not.toContain(account.id)
      expect(await refusal(tx, (sp) => leased(sp, account))).toMatchObject({
        code: 'entitlement_required',
        status: 402,
      })

      await putSubscription(tx, account.id)
      expect(await leased(tx, account)).toEqual([account.id])
    }))

  test('that is due and may not be synced wakes nobody', () =>
    rolledBack(async (tx) => {
      await tx`update private.portfolio_syncs set next_sync_at = now() + interval '1 day'`
      await tx`create or replace function private.call_jobs_function(path text) returns bigint language sql as 'select 42::bigint'`
      const { account } = await newConnection(tx)
      await onlyPremium(tx, 'portfolio_sync')
      const called = async () => (await tx`select private.call_sync_portfolios()::int as id`)[0]?.id

      expect(await called()).toBeNull()
      await putSubscription(tx, account.id)
      expect(await called()).toBe(42)
    }))
})

describe('AI calls', () => {
  test('with a key of one’s own need the feature', () =>
    rolledBack(async (tx) => {
      await newModel(tx)
      await tx`insert into public.plan_models (plan_id, model_id) values ('premium', 'sql/model')`
      const account = await newAccount(tx)
      const credential_id = crypto.randomUUID()
      await tx`
        insert into public.credentials (id, user_id, kind, provider, name, last_four, status)
        values (${credential_id}, ${account.id}, 'ai_provider', 'sql-test', 'Mine', '', 'active')`
      await tx`select private.store_secret(${credential_id}, ${account.id}, 'api_key', 'theirs')`
      expect(await admit(tx, account, { credential_id })).toMatchObject({ admitted: true })

      await onlyPremium(tx, 'own_keys')
      expect(await admit(tx, account, { credential_id })).toMatchObject({
        code: 'entitlement_required',
        details: { param: 'credential' },
        message: expect.stringMatching(/Pay or choose a plan: \/billing$/),
      })
      expect(await admit(tx, account)).toMatchObject({ admitted: true })

      await putSubscription(tx, account.id)
      expect(await admit(tx, account, { credential_id })).toMatchObject({ admitted: true })
    }))

  test('of a model that another plan has are refused with the link to pay; of one that no plan has, without', () =>
    rolledBack(async (tx) => {
      await newModel(tx, 'premium')
      const account = await newAccount(tx)
      const refused = async () => (await admit(tx, account)).message

      expect(await refused()).toBe('Your plan does not include the model sql/model. Pay or choose a plan: /billing')
      await tx`delete from public.plan_models where model_id = 'sql/model'`
      expect(await refused()).toBe('Your plan does not include the model sql/model.')
    }))
})
