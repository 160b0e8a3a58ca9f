/** npm run keys:rotate as an operator meets it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newAccount } from '../sql/support.ts'
import { runScript } from '../support/run-script.ts'
import { target } from '../target.ts'

const sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
const owner: { id: string } = { id: '' }
const ids: string[] = []

const rotate = (args: string[], env: Record<string, string> = { DB_URL: target().dbUrl }) =>
  runScript('keys-rotate', args, { ...process.env, DB_URL: '', ...env })
const schemes = async () =>
  (await sql`select distinct scheme from private.credential_secrets where credential_id = any(${ids})`).map(
    (row) => row.scheme,
  )
const opened = async (id: string) =>
  (await sql`select private.open(${id}, 'test') #>> '{fields,api_key}' as key`)[0]?.key

beforeAll(async () => {
  Object.assign(owner, await newAccount(sql))
  const rows = await sql`
    insert into public.credentials (user_id, kind, provider, name, last_four)
    select ${owner.id}, 'exchange', 'kraken', 'Rotate', '' from generate_series(1, 5) returning id`
  for (const { id } of rows) {
    ids.push(id)
    await sql`select private.store_secret(${id}, ${owner.id}, 'api_key', ${`key of ${id}`})`
  }
})
afterAll(async () => {
  await sql`delete from auth.users where id = ${owner.id}`
  await sql.end()
})

test('moves everything to another scheme and back, in batches, with progress', async () => {
  for (const scheme of ['A256CBC-HS512', 'aead-det']) {
    const { code, stdout, stderr } = await rotate(['--scheme', scheme, '--batch', '2'])

    expect(stderr).toMatch(/… 2 moved, \d+ left/)
    expect(stdout).toMatch(/^\d+ credentials moved, \d+ older keys retired\.$/m)
    expect(code).toBe(0)
    expect(await schemes()).toEqual([scheme])
    for (const id of ids) expect(await opened(id)).toBe(`key of ${id}`)
  }
})

test('goes on where an interrupted rotation was', async () => {
  await sql`select private.rotate_credential_keys()`
  await sql`select private.reseal_credentials(2)`

  expect(await rotate(['--continue'])).toMatchObject({ code: 0 })
  const old = await sql`
    select from private.credential_secrets s join private.data_keys k on k.id = s.data_key_id where not k.is_current`
  expect(old).toHaveLength(0)
})

test('says so and exits 1 when a credential cannot be opened', async () => {
  await sql`update private.credential_secrets set nonce = set_bit(nonce, 0, 1 - get_bit(nonce, 0)) where credential_id = ${ids[0] ?? ''}`

  const { code, stderr } = await rotate([])

  expect(stderr).toMatch(/1 credentials cannot be opened/)
  expect(code).toBe(1)
})

test('refuses what it does not understand, and explains itself', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'palisade-rotate-'))
  try {
    expect(await rotate(['--batch', '0'])).toMatchObject({ code: 1, stderr: expect.stringContaining('--batch') })
    expect(await rotate(['--scheme', 'rot13'])).toMatchObject({ code: 1, stderr: expect.stringContaining('aead-det') })
    expect(await rotate([], { PALISADE_DATA: folder })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('npm start'),
    })
    expect(await rotate(['--help'])).toMatchObject({ code: 0, stdout: expect.stringContaining('--continue') })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
