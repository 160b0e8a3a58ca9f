/** Calls that the caller's own key of the provider pays, from the vault. */
import { expect, test } from 'vitest'
import { admit, baseModel, callOf, newModel, settle } from './ai-support.ts'
import { countersOf, creditsOf, newAccount, rolledBack, type Tx } from './support.ts'

const credential_id = crypto.randomUUID()
const secret = 'sk-their-own'

/** As the function `credentials` leaves it after a test that went well. */
async function putKey(tx: Tx, owner: string) {
  await tx`
    insert into public.credentials (id, user_id, kind, provider, name, last_four, status)
    values (${credential_id}, ${owner}, 'ai_provider', 'sql-test', 'Mine', '', 'active')`
  await tx`select private.store_secret(${credential_id}, ${owner}, 'api_key', ${secret})`
}

test('cost no credits and no money of the project, and count as calls and tokens', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    const account = await newAccount(tx)
    await putKey(tx, account.id)
    const spent = async () => (await tx`select spent_and_held_micros::text from private.project_spend()`)[0]
    await settle(tx, (await admit(tx, account)).call_id)
    const before = [await creditsOf(tx, account.id), await spent()]

    const admission = await admit(tx, account, { credential_id })
    expect(admission).toMatchObject({ admitted: true, routes: [{ api_key: secret }] })
    expect([await creditsOf(tx, account.id), await spent()]).toEqual(before)
    expect(await callOf(tx, admission.call_id)).toMatchObject({ own_key: true, hold_credits: 0, hold_micros: 0 })

    expect(await settle(tx, admission.call_id)).toMatchObject({ settled: true, credits_charged: 0, cost_micros: 0 })
    expect([await creditsOf(tx, account.id), await spent()]).toEqual(before)
    expect(await callOf(tx, admission.call_id)).toMatchObject({ state: 'settled', prompt_tokens: 10, cost_micros: 0 })
    expect(await countersOf(tx, account.id)).toMatchObject({ 'ai_calls/day': [2, 0], 'ai_tokens/month': [30, 0] })
    expect(JSON.stringify(await tx`select to_jsonb(c) from public.ai_calls c`)).not.toContain(secret)
  }))

test('work without any credits', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    const account = await newAccount(tx, { credits: 0 })
    await putKey(tx, account.id)

    expect(await admit(tx, account)).toMatchObject({ code: 'insufficient_credits' })
    expect(await admit(tx, account, { credential_id })).toMatchObject({ admitted: true })
  }))

test('never fall back to a provider for which there is no such key', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    await tx`insert into private.model_fallbacks (model_id, position, fallback_model_id) values ('sql/model', 1, ${baseModel})`
    const account = await newAccount(tx)
    await putKey(tx, account.id)

    expect((await admit(tx, account)).routes?.map(({ model }) => model)).toEqual(['sql/model', baseModel])
    expect((await admit(tx, account, { credential_id })).routes?.map(({ model }) => model)).toEqual(['sql/model'])
  }))

test.each(['somebody else’s', 'unknown', 'for another provider', 'not active', 'unreadable'])(
  '%s: not found, and nothing is taken',
  (which) =>
    rolledBack(async (tx) => {
      await newModel(tx)
      const account = await newAccount(tx)
      await putKey(tx, (which === 'somebody else’s' ? await newAccount(tx) : account).id)
      if (which === 'not active') await tx`update public.credentials set status = 'failed' where id = ${credential_id}`
      if (which === 'unreadable')
        await tx`update private.credential_secrets set ciphertext = substring(ciphertext for 32) where credential_id = ${credential_id}`
      const wish = {
        credential_id: which === 'unknown' ? crypto.randomUUID() : credential_id,
        ...(which === 'for another provider' && { model: baseModel }),
      }

      expect(await admit(tx, account, wish)).toMatchObject({
        admitted: false,
        code: 'not_found',
        details: { param: 'credential' },
      })
      expect(await creditsOf(tx, account.id)).toMatchObject({ held: 0 })
    }),
)

test('what breaks off after it began costs nothing either', () =>
  rolledBack(async (tx) => {
    await newModel(tx)
    const account = await newAccount(tx)
    await putKey(tx, account.id)
    const { call_id } = await admit(tx, account, { credential_id })
    await tx`select private.start_ai_calls(array[${call_id}::uuid])`
    await tx`update private.ai_holds set expires_at = now() - interval '1 second' where call_id = ${call_id}`
    await tx`select private.settle_abandoned_ai_calls()`

    expect(await callOf(tx, call_id)).toMatchObject({ state: 'expired', cost_micros: 0, credits_charged: 0 })
  }))
