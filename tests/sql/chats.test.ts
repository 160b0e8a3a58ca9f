import { describe, expect, test } from 'vitest'
import { asUser, countersOf, newAccount, refusal, rolledBack, type Tx } from './support.ts'

async function newChat(tx: Tx, userId: string): Promise<string> {
  const [row] = await asUser(tx, userId, (as) => as`insert into public.chats (title) values ('Mine') returning id`)
  return row?.id
}
const say = (tx: Tx, userId: string, chatId: string, owner = userId) =>
  asUser(
    tx,
    userId,
    (as) => as`
    insert into public.messages (chat_id, user_id, role, content) values (${chatId}, ${owner}, 'user', 'Hello')`,
  )
const strangers = async (tx: Tx) => {
  const [owner, other] = [await newAccount(tx), await newAccount(tx)]
  return { owner: owner.id, other: other.id, chat: await newChat(tx, owner.id) }
}

describe('chats of others', () => {
  test('nobody starts a chat in another’s name', () =>
    rolledBack(async (tx) => {
      const { owner, other } = await strangers(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(sp, other, (as) => as`insert into public.chats (user_id) values (${owner})`),
      )

      expect(refused.sqlstate).toBe('42501')
      expect(await countersOf(tx, owner)).toEqual({ 'chat_sessions/day': [1, 0] })
    }))

  test('another’s chat cannot be taken over by its id', () =>
    rolledBack(async (tx) => {
      const { other, chat } = await strangers(tx)

      const refused = await refusal(tx, (sp) =>
        asUser(
          sp,
          other,
          (as) => as`
          insert into public.chats (id, title) values (${chat}, 'Taken') on conflict (id) do update set title = 'Taken'`,
        ),
      )

      expect(refused.sqlstate).toBe('42501')
      expect((await tx`select title from public.chats where id = ${chat}`)[0]?.title).toBe('Mine')
    }))

  test('a message in another’s chat is refused like one in no chat at all', () =>
    rolledBack(async (tx) => {
      const { other, chat } = await strangers(tx)

      const foreign = await refusal(tx, (sp) => say(sp, other, chat))
      const missing = await refusal(tx, (sp) => say(sp, other, crypto.randomUUID()))

      expect(foreign).toEqual(missing)
      expect(foreign.sqlstate).toBe('23503')
    }))

  test('a message cannot be put into a chat in its owner’s name', () =>
    rolledBack(async (tx) => {
      const { owner, other, chat } = await strangers(tx)

      const refused = await refusal(tx, (sp) => say(sp, other, chat, owner))

      expect(refused.sqlstate).toBe('42501')
    }))

  test('another sees, renames and deletes nothing', () =>
    rolledBack(async (tx) => {
      const { owner, other, chat } = await strangers(tx)
      await say(tx, owner, chat)

      const counts = await asUser(tx, other, async (as) => [
        (await as`select from public.chats`).count,
        (await as`select from public.messages`).count,
        (await as`update public.chats set title = 'x' where id = ${chat}`).count,
        (await as`delete from public.messages where chat_id = ${chat}`).count,
        (await as`delete from public.chats where id = ${chat}`).count,
      ])

      expect(counts).toEqual([0, 0, 0, 0, 0])
      expect((await tx`select from public.messages where chat_id = ${chat}`).count).toBe(1)
    }))

  test('who is not signed in has no access at all', () =>
    rolledBack(async (tx) => {
      await tx`set local role anon`

      for (const table of ['chats', 'messages'])
        expect((await refusal(tx, (sp) => sp`select from ${sp(`public.${table}`)}`)).sqlstate).toBe('42501')
    }))
})

describe('the owner', () => {
  test.each([
    ['give a chat away', (id: string) => `update public.chats set user_id = gen_random_uuid() where user_id = '${id}'`],
    ['date a chat', (id: string) => `update public.chats set created_at = now() where user_id = '${id}'`],
    ['rewrite a message', (id: string) => `update public.messages set content = 'x' where user_id = '${id}'`],
    ['empty the tables', () => 'truncate public.chats, public.messages'],
  ])('cannot %s', (_name, statement) =>
    rolledBack(async (tx) => {
      const { owner } = await strangers(tx)

      const refused = await refusal(tx, (sp) => asUser(sp, owner, (as) => as.unsafe(statement(owner))))

      expect(refused.sqlstate).toBe('42501')
    }),
  )

  test.each([
    ['a title of 201 characters', `insert into public.chats (title) values (repeat('t', 201))`],
    [
      'a message of 200001 characters',
      `
      insert into public.messages (chat_id, role, content) select id, 'user', repeat('m', 200001) from public.chats`,
    ],
    [
      'a role that no model knows',
      `
      insert into public.messages (chat_id, role, content) select id, 'robot', 'x' from public.chats`,
    ],
  ])('cannot save %s', (_name, statement) =>
    rolledBack(async (tx) => {
      const { owner } = await strangers(tx)

      const refused = await refusal(tx, (sp) => asUser(sp, owner, (as) => as.unsafe(statement)))

      expect(refused.sqlstate).toBe('23514')
    }),
  )

  test('keeps a conversation, reads it in order, and deletes it with its messages', () =>
    rolledBack(async (tx) => {
      const { owner, chat } = await strangers(tx)
      for (let turn = 0; turn < 3; turn += 1) await say(tx, owner, chat)

      const [messages, renamed] = await asUser(tx, owner, async (as) => [
        await as`select content from public.messages where chat_id = ${chat} order by id`,
        (await as`update public.chats set title = 'Renamed' where id = ${chat}`).count,
      ])
      await asUser(tx, owner, (as) => as`delete from public.chats where id = ${chat}`)

      expect([messages?.length, renamed]).toEqual([3, 1])
      expect((await tx`select from public.messages where chat_id = ${chat}`).count).toBe(0)
    }))
})

describe('the daily limit', () => {
  test('the eleventh chat of a day is refused, and deleting one gives none back', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      for (let chat = 0; chat < 10; chat += 1) await newChat(tx, id)
      await asUser(tx, id, (as) => as`delete from public.chats where user_id = ${id}`)

      const refused = await refusal(tx, (sp) => newChat(sp, id))

      expect(refused).toMatchObject({ code: 'daily_quota_exceeded', status: 429 })
      expect((await tx`select from public.chats where user_id = ${id}`).count).toBe(0)
      expect(await countersOf(tx, id)).toEqual({ 'chat_sessions/day': [10, 0] })
    }))

  test('several chats in one statement count one by one', () =>
    rolledBack(async (tx) => {
      const { id } = await newAccount(tx)
      const insert = (tx: Tx, count: number) =>
        asUser(tx, id, (as) => as`insert into public.chats (title) select 'x' from generate_series(1, ${count})`)

      const refused = await refusal(tx, (sp) => insert(sp, 11))
      await insert(tx, 10)

      expect(refused.code).toBe('daily_quota_exceeded')
      expect(await countersOf(tx, id)).toEqual({ 'chat_sessions/day': [10, 0] })
    }))

  test('renaming a chat and saving messages do not count', () =>
    rolledBack(async (tx) => {
      const { owner, chat } = await strangers(tx)

      await asUser(
        tx,
        owner,
        (as) => as`
        insert into public.chats (id, title) values (${chat}, 'Again') on conflict (id) do update set title = 'Again'`,
      )
      await say(tx, owner, chat)

      expect(await countersOf(tx, owner)).toEqual({ 'chat_sessions/day': [1, 0] })
    }))
})
