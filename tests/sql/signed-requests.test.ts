/** Signed requests (Standard Webhooks): what the database accepts as a signature, and that it accepts it once. */
import { createHmac } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { verifyApiKey } from '../../functions/_shared/auth/identify-caller.ts'
import { addFactor } from '../support/sql.ts'
import { type Admission, admit, baseModel, type Signature } from './ai-support.ts'
import {
  type Account,
  asUser,
  eventsOf,
  newAccount,
  racing,
  refusal,
  rolledBack,
  type Sql,
  type Tx,
  together,
} from './support.ts'

const body = '{"model":"x","messages":[{"role":"user","content":"grüß dich"}]}'
const base64 = (text: string) => Buffer.from(text).toString('base64')

type Key = { id: string; hash: string; signing: string }
async function newSignedKey(tx: Tx, { id }: Account): Promise<Key> {
  return asUser(tx, id, async (as) => {
    const [key] = await as`select * from public.create_api_key('service', array['chat.completions', 'models'])`
    const [row] = await as`select public.sign_api_key(${key?.id}) as secret`
    return {
      id: String(key?.id),
      hash: (await verifyApiKey(String(key?.secret))).keyHash,
      signing: String(row?.secret),
    }
  })
}

/** As a service signs it; `over` replaces what is signed, `sent` what is sent. */
function sign(
  key: Key,
  over: { id?: string; at?: number; body?: string } = {},
  sent: Partial<Signature> = {},
): Signature {
  const { id = 'msg_1', at = Date.now() / 1000, body: text = body } = over
  const timestamp = String(Math.floor(at))
  const secret = Buffer.from(key.signing.replace('whsec_', ''), 'base64')
  const signature = createHmac('sha256', secret).update(`${id}.${timestamp}.${text}`).digest('base64')
  return { id, timestamp, signatures: [`v1,${signature}`], content: base64(body), ...sent }
}
const send = (sql: Sql | Tx, account: Account, key: Key, signature: Signature | null): Promise<Admission> =>
  admit(sql, account, { model: baseModel, api_key_hash: key.hash, signature })
const soon = (seconds: number) => Date.now() / 1000 + seconds

describe('a request with a key that demands signatures', () => {
  const cases: [string, (key: Key) => Signature | null][] = [
    ['is not signed', () => null],
    ['is signed with another secret', (key) => sign({ ...key, signing: `whsec_${base64('x'.repeat(32))}` })],
    ['has another body', (key) => sign(key, {}, { content: base64(`${body} `) })],
    ['has another id', (key) => sign(key, {}, { id: 'msg_2' })],
    ['has another time', (key) => sign(key, {}, { timestamp: String(Math.floor(soon(-10))) })],
    ['is six minutes old', (key) => sign(key, { at: soon(-360) })],
    ['comes six minutes early', (key) => sign(key, { at: soon(360) })],
    ['has a time that is none', (key) => sign(key, {}, { timestamp: 'now' })],
    [
      'has a signature of another version only',
      (key) => sign(key, {}, { signatures: [String(sign(key).signatures[0]).replace('v1', 'v2')] }),
    ],
    ['has no signatures', (key) => sign(key, {}, { signatures: [] })],
  ]

  test.each(cases)('that %s is refused, and nothing is taken', (_name, signature) =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await newSignedKey(tx, account)

      expect(await send(tx, account, key, signature(key))).toMatchObject({ admitted: false, code: 'invalid_signature' })
      expect(await tx`select from private.ai_holds where user_id = ${account.id}`).toHaveLength(0)
    }),
  )

  test('that is signed is admitted, once', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await newSignedKey(tx, account)
      const signature = sign(key, { at: soon(-290) })

      const answers = [await send(tx, account, key, signature), await send(tx, account, key, signature)]
      const later = await send(tx, account, key, sign(key, { id: 'msg_2' }))

      expect(answers.map(({ admitted, code }) => code ?? admitted)).toEqual([true, 'invalid_signature'])
      expect(later.admitted).toBe(true)
    }))

  test('that was refused for something else may be sent again', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx, { credits: 0 })
      const key = await newSignedKey(tx, account)
      const signature = sign(key)

      const broke = await send(tx, account, key, signature)
      await tx`select public.grant_credits(${account.id}, 5, 'test', 'again')`

      expect(broke.code).toBe('insufficient_credits')
      expect((await send(tx, account, key, signature)).admitted).toBe(true)
    }))

  test('that carries an old and a new signature is admitted by either', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await newSignedKey(tx, account)
      const signatures = ['v1,b2xk', ...sign(key).signatures]

      expect((await send(tx, account, key, sign(key, {}, { signatures }))).admitted).toBe(true)
    }))

  test('sent twenty times at once is admitted once', () =>
    racing(20, async (sql, accounts) => {
      const account = await accounts()
      const key = await sql.begin((tx) => newSignedKey(tx, account))
      const signature = sign(key)

      const answers = await together(20, () => send(sql, account, key, signature))

      expect(answers.filter((answer) => 'admitted' in answer && answer.admitted)).toHaveLength(1)
      expect(answers.filter((answer) => answer.code === 'invalid_signature')).toHaveLength(19)
    }))
})

describe('the signing secret', () => {
  test('is encrypted in Vault, and forgotten with the key or when signatures are not demanded any more', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const [one, other] = [await newSignedKey(tx, account), await newSignedKey(tx, account)]
      const stored = async () =>
        (await tx`select secret from vault.secrets where name like 'api_key_signing:%'`).map((row) => row.secret)
      const before = await stored()

      await asUser(tx, account.id, (as) => as`select public.sign_api_key(${one.id}, false)`)
      await asUser(tx, account.id, (as) => as`select public.revoke_api_key(${other.id})`)

      expect(before.filter((secret) => String(secret).includes('whsec_'))).toEqual([])
      expect(before.length - (await stored()).length).toBe(2)
      expect((await send(tx, account, one, null)).admitted).toBe(true)
      expect((await send(tx, account, one, sign(one))).code).toBe('invalid_signature')
    }))

  test('is for the owner with the second factor', () =>
    rolledBack(async (tx) => {
      const [account, other] = [await newAccount(tx), await newAccount(tx)]
      const { id } = await newSignedKey(tx, account)
      const ask = (sp: Tx, user: Account) => asUser(sp, user.id, (as) => as`select public.sign_api_key(${id})`)

      expect((await refusal(tx, (sp) => ask(sp, other))).code).toBe('not_found')
      await addFactor(tx, account.id)
      expect((await refusal(tx, (sp) => ask(sp, account))).code).toBe('insufficient_aal')
    }))

  test('a failure is told to the owner, once in a while, and an unknown key to nobody', () =>
    rolledBack(async (tx) => {
      const account = await newAccount(tx)
      const key = await newSignedKey(tx, account)
      const tell = (hash: string) => tx`select private.report_signature_failure(decode(${hash}, 'hex'), '203.0.113.9')`

      for (const hash of [key.hash, key.hash, 'ff'.repeat(32)]) await tell(hash)

      expect((await eventsOf(tx, account.id)).filter((event) => event.startsWith('signature'))).toEqual([
        'signature_failure high',
      ])
    }))
})
