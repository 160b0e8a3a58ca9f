/** However the end of an account is recorded, everything that acts in its name stops in the same transaction. */
import { expect, test } from 'vitest'
import { newConnection } from './portfolio-support.ts'
import { asUser, rolledBack, type Tx } from './support.ts'

/** What an account has that acts: its session, a key, a sync that is due, one that runs, a credential that opens. */
const newActor = async (tx: Tx) => {
  const { account, credentialId } = await newConnection(tx)
  await tx`select private.store_secret(${credentialId}, ${account.id}, 'api_key', 'their key')`
  await asUser(tx, account.id, (as) => as`select public.create_api_key('ci', array['models'])`)
  return { ...account, credentialId }
}
type Actor = Awaited<ReturnType<typeof newActor>>

const lease = async (tx: Tx, { credentialId }: Actor): Promise<string | undefined> => {
  await tx`update private.portfolio_syncs set next_sync_at = '-infinity', leased_until = null where credential_id = ${credentialId}`
  const leases = await tx`select * from private.lease_portfolio_sync(100)`
  return leases.find(({ credential_id }) => credential_id === credentialId)?.lease_id
}

/** Which of them work. `running`: a lease that was given before. */
const acts = async (tx: Tx, actor: Actor, running: string | undefined) => {
  const [session] = await asUser(tx, actor.id, (as) => as`select private.my_user_id() is not null as lives`)
  const [key] =
    await tx`select refusal is null as works from private.check_account(${actor.id}, null, by_api_key => true)`
  const [copy] =
    await tx`select is_active and banned_until <= now() as works from private.accounts where user_id = ${actor.id}`
  const [opened] = await tx`select private.open(${actor.credentialId}, 'sync') -> 'opened' as opened`
  const [recorded] = await tx`
    select private.record_portfolio_sync(${running ?? null}, null, '{}', '[]', null) -> 'recorded' as recorded`
  const sync = (await lease(tx, actor)) !== undefined
  return {
    session: session?.lives,
    key: key?.works,
    batch: copy?.works,
    credential: opened?.opened,
    running: recorded?.recorded,
    sync,
  }
}
const all = (works: boolean) => ({
  session: works,
  key: works,
  batch: works,
  credential: works,
  running: works,
  sync: works,
})

test.each<[string, (tx: Tx, id: string) => PromiseLike<unknown>]>([
  ['a soft deletion by the Auth service', (tx, id) => tx`update auth.users set deleted_at = now() where id = ${id}`],
  [
    'a ban by the Auth service',
    (tx, id) => tx`update auth.users set banned_until = now() + interval '1 hour' where id = ${id}`,
  ],
  ['a suspension', (tx, id) => tx`update public.profiles set status = 'suspended' where id = ${id}`],
  ['a deletion', (tx, id) => tx`update public.profiles set status = 'deleted' where id = ${id}`],
])('%s ends sessions, keys, syncs and credentials at once', (_, end) =>
  rolledBack(async (tx) => {
    const actor = await newActor(tx)
    expect(await acts(tx, actor, await lease(tx, actor))).toEqual(all(true))
    const running = await lease(tx, actor)

    await end(tx, actor.id)

    expect(await acts(tx, actor, running)).toEqual(all(false))
    expect([...(await tx`select from private.compare_account_gates() where user_id = ${actor.id}`)]).toEqual([])
  }),
)

test('a soft deletion that is taken back gives them back', () =>
  rolledBack(async (tx) => {
    const actor = await newActor(tx)
    await tx`update auth.users set deleted_at = now() where id = ${actor.id}`

    await tx`update auth.users set deleted_at = null where id = ${actor.id}`

    expect(await acts(tx, actor, await lease(tx, actor))).toEqual(all(true))
  }))
