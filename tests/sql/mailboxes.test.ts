/** What a mailbox gets for nothing it gets once, however its address is written and however many accounts it has. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { runs } from '../support/runs.ts'
import { connect, creditsOf, rolledBack, type Sql, type Tx, together } from './support.ts'

const mailboxOf = async (tx: Tx, address: string | null) => {
  const [row] = await tx`select private.mailbox_of(${address}) as mailbox`
  return row?.mailbox
}

/** An account with an address, confirmed from the start or not yet. */
async function account(
  sql: Sql | Tx,
  email: string | null,
  { confirmed = true, anonymous = false } = {},
): Promise<string> {
  const id = crypto.randomUUID()
  await sql`
    insert into auth.users (id, email, email_confirmed_at, is_anonymous, aud, role, created_at, updated_at)
    values (${id}, ${email}, ${confirmed ? new Date() : null}, ${anonymous}, 'authenticated', 'authenticated', now(), now())`
  return id
}

const confirm = (tx: Tx, id: string) => tx`update auth.users set email_confirmed_at = now() where id = ${id}`
const balance = async (sql: Sql | Tx, id: string) => (await creditsOf(sql, id)).balance
const newName = () => `box${crypto.randomUUID().replaceAll('-', '')}`

describe('an address', () => {
  test.each([
    ['Ada.Lovelace+news@Gmail.com', 'adalovelace@gmail.com'],
    ['a.d.a@googlemail.com', 'ada@gmail.com'],
    ['ada+1+2@outlook.com', 'ada@outlook.com'],
    ['ada.l@outlook.com', 'ada.l@outlook.com'],
    ['ada+1@example.com', 'ada+1@example.com'],
    ['+1@gmail.com', '+1@gmail.com'],
    ['.@gmail.com', '.@gmail.com'],
    ['"a@b"@example.com', '"a@b"@example.com'],
    ['nobody', null],
    ['', null],
    [null, null],
  ])('%s leads to the mailbox %s', (address, mailbox) =>
    rolledBack(async (tx) => {
      expect(await mailboxOf(tx, address)).toBe(mailbox)
    }),
  )

  test('at any domain is one mailbox with what follows a plus sign, when the setting says so', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '["*"]' where key = 'mailboxes.plus_domains'`

      expect(await mailboxOf(tx, 'ada+1@example.com')).toBe('ada@example.com')
    }))

  test('of a mailbox leads to that mailbox', () =>
    rolledBack(async (tx) => {
      const part = fc.stringMatching(/^[a-z0-9.+]{1,12}$/)
      const domain = fc.constantFrom('gmail.com', 'googlemail.com', 'outlook.com', 'example.com')
      const same = async (name: string, at: string) => {
        const mailbox = await mailboxOf(tx, `${name}@${at}`)
        expect(await mailboxOf(tx, mailbox)).toBe(mailbox)
      }

      await fc.assert(fc.asyncProperty(part, domain, same), { numRuns: runs(60) })
    }))
})

describe('credits on sign-up', () => {
  test('come once for a mailbox, and as often as the setting says', () =>
    rolledBack(async (tx) => {
      const name = newName()
      const made: string[] = []
      const next = async () => {
        made.push(await account(tx, `${name}+${made.length}@gmail.com`))
        return balance(tx, made.at(-1) ?? '')
      }

      expect([await next(), await next(), await next()]).toEqual([100, 0, 0])
      await tx`update private.settings set value = '2' where key = 'credits.sign_ups_per_mailbox'`
      expect([await next(), await next()]).toEqual([100, 0])
    }))

  test('come when the address is confirmed, so that a sign-up of somebody else takes them from nobody', () =>
    rolledBack(async (tx) => {
      const name = newName()
      const stranger = await account(tx, `${name}+1@gmail.com`, { confirmed: false })
      const owner = await account(tx, `${name}@gmail.com`, { confirmed: false })

      await confirm(tx, owner)

      expect([await balance(tx, stranger), await balance(tx, owner)]).toEqual([0, 100])
      await confirm(tx, stranger)
      expect(await balance(tx, stranger)).toBe(0)
    }))

  test('do not come again for an account that was erased and made anew, until its mailbox is forgotten', () =>
    rolledBack(async (tx) => {
      const email = `${newName()}@example.com`
      const forget = async () => {
        const [row] = await tx`select private.delete_old_mailbox_claims() as deleted`
        return row?.deleted
      }
      const again = async (id: string) => {
        await tx`delete from auth.users where id = ${id}`
        return account(tx, email)
      }
      const second = await again(await account(tx, email))
      expect([await balance(tx, second), await forget()]).toEqual([0, 0])

      await tx`update private.mailbox_claims set claimed_at = now() - interval '731 days' where true`
      expect(await forget()).toBeGreaterThan(0)

      expect(await balance(tx, await again(second))).toBe(100)
    }))

  test('come to every account without an address', () =>
    rolledBack(async (tx) => {
      await tx`update private.settings set value = '7' where key = 'credits.on_anonymous_sign_up'`

      const made = [
        await account(tx, null, { anonymous: true, confirmed: false }),
        await account(tx, null),
        await account(tx, null),
      ]

      expect(await Promise.all(made.map((id) => balance(tx, id)))).toEqual([7, 100, 100])
    }))

  test('come to one of twenty accounts of a mailbox that are confirmed at once', async () => {
    const sql = connect(20)
    const name = newName()
    try {
      const made = (await together(20, (n) => account(sql, `${name}+${n}@gmail.com`))).map(String)

      const balances = await Promise.all(made.map((id) => balance(sql, id)))

      expect(balances.sort((a, b) => b - a)).toEqual([100, ...Array(19).fill(0)])
    } finally {
      await sql`delete from auth.users where email like ${`${name}%`}`
      await sql.end()
    }
  })
})
