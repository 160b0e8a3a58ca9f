/** Files with plain supabase-js: what an owner can do, and what nobody can do to another's. */
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkUploads, createUploadFiles } from '../../functions/_shared/storage/check-uploads.ts'
import { createUploadDatabase } from '../../functions/_shared/storage/upload-database.ts'
import { clientWith, newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

/** The smallest bytes that are a PNG to anybody who looks. */
const pngBytes = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
)
const png = (bytes: Uint8Array<ArrayBuffer> = new Uint8Array(pngBytes)) => new Blob([bytes], { type: 'image/png' })
const newName = () => `${crypto.randomUUID()}.png`

const sql = { db: null as postgres.Sql | null }
const db = () => {
  sql.db ??= postgres(target().dbUrl, { max: 1, onnotice: () => {} })
  return sql.db
}
let owner: TestUser
let other: TestUser
beforeAll(async () => {
  ;[owner, other] = [await newUser(), await newUser()]
})
afterAll(() => sql.db?.end())

const setLimit = (user: TestUser, amount: number) => db()`
  insert into public.limit_overrides (user_id, meter, period, amount) values (${user.id}, 'storage_bytes', 'total', ${amount})
  on conflict (user_id, meter, period) do update set amount = excluded.amount`

const used = async (user: TestUser) =>
  (await user.client.rpc('get_my_limits')).data?.find((row) => row.meter === 'storage_bytes')?.used

describe.each(['avatars', 'images'])('bucket %s', (bucket) => {
  test('takes nothing below another’s id, in no folder, or with another extension or type', async () => {
    const files = owner.client.storage.from(bucket)

    const refused = await Promise.all([
      files.upload(`${other.id}/${newName()}`, png()),
      files.upload(newName(), png()),
      files.upload(`${owner.id}/page.html`, png()),
      files.upload(`${owner.id}/page.png`, new Blob(['<b>'], { type: 'text/html' })),
      files.upload(`${owner.id}/drawing.svg`, new Blob(['<svg/>'], { type: 'image/svg+xml' })),
      files.upload(`${owner.id}/liar.gif`, png()),
      files.upload(`${owner.id}/empty.png`, new Blob([], { type: 'image/png' })),
      clientWith(target().publishableKey).storage.from(bucket).upload(`${owner.id}/${newName()}`, png()),
    ])

    expect(refused.map(({ data }) => data)).toEqual(Array(refused.length).fill(null))
    expect(refused[2]?.error?.message).toBe('The file name must end in .png, .jpg, .jpeg, .gif or .webp.')
    expect(refused[5]?.error?.message).toBe('A file named .gif must be sent as image/gif.')
    expect(refused[6]?.error?.message).toBe('The file is empty.')
  })

  test('takes no file above 16 MB', async () => {
    const bytes = new Uint8Array(16 * 1024 * 1024 + 1)

    const { data, error } = await owner.client.storage.from(bucket).upload(`${owner.id}/${newName()}`, png(bytes))

    expect(data).toBeNull()
    expect(error?.message).toMatch(/maximum allowed size/)
  })

  test('another lists, reads, signs, replaces, moves, copies and removes nothing', async () => {
    const path = `${owner.id}/${newName()}`
    await owner.client.storage.from(bucket).upload(path, png())
    const mine = `${other.id}/${newName()}`
    const files = other.client.storage.from(bucket)

    const attempts = await Promise.all([
      files.download(path),
      files.info(path),
      files.createSignedUrl(path, 60),
      files.createSignedUploadUrl(path, { upsert: true }),
      files.upload(path, png(), { upsert: true }),
      files.update(path, png()),
      files.move(path, mine),
      files.copy(path, mine),
    ])

    expect(attempts.map(({ data }) => data)).toEqual(Array(attempts.length).fill(null))
    expect((await files.list(owner.id)).data).toEqual([])
    expect((await files.createSignedUrls([path], 60)).data?.map(({ signedUrl }) => signedUrl || null)).toEqual([null])
    expect((await files.remove([path])).data).toEqual([])
    expect((await owner.client.storage.from(bucket).download(path)).data?.size).toBe(pngBytes.length)
  })

  test('the owner lists, reads, signs, replaces, moves, copies and removes', async () => {
    const files = owner.client.storage.from(bucket)
    const [path, moved, copied, signed] = [1, 2, 3, 4].map(() => `${owner.id}/${newName()}`) as [
      string,
      string,
      string,
      string,
    ]

    const done = [
      await files.upload(path, png()),
      await files.upload(path, png(), { upsert: true }),
      await files.copy(path, copied),
      await files.move(path, moved),
      await files.download(moved),
      await files.info(moved),
    ]
    const listed = (await files.list(owner.id)).data?.map(({ name }) => name.split('/').at(-1))
    const url = await files.createSignedUrl(moved, 60)
    const upload = await files.createSignedUploadUrl(signed)
    const uploaded = await files.uploadToSignedUrl(signed, upload.data?.token ?? '', png())

    expect(done.map(({ error }) => error)).toEqual(Array(done.length).fill(null))
    expect(listed).toEqual(expect.arrayContaining([moved, copied].map((name) => name.split('/').at(-1))))
    expect((await fetch(url.data?.signedUrl ?? '')).status).toBe(200)
    expect((await files.createSignedUrls([moved, copied], 60)).data?.every(({ signedUrl }) => signedUrl)).toBe(true)
    expect([upload.error, uploaded.error]).toEqual([null, null])
    expect((await files.remove([moved, copied, signed])).data).toHaveLength(3)
    expect((await files.download(moved)).data).toBeNull()
  })

  test('a move or a copy into another’s folder is refused, and the file stays', async () => {
    const files = owner.client.storage.from(bucket)
    const path = `${owner.id}/${newName()}`
    await files.upload(path, png())

    const moved = await files.move(path, `${other.id}/${newName()}`)
    const copied = await files.copy(path, `${other.id}/${newName()}`)

    expect([moved.data, copied.data]).toEqual([null, null])
    expect((await files.download(path)).error).toBeNull()
  })

  test('is private: no public address, no listing of buckets, no change of the bucket', async () => {
    const { storage } = owner.client
    const path = `${owner.id}/${newName()}`
    await storage.from(bucket).upload(path, png())

    const answer = await fetch(storage.from(bucket).getPublicUrl(path).data.publicUrl)
    const opened = await storage.updateBucket(bucket, { public: true })
    const [made, emptied] = [await storage.createBucket(crypto.randomUUID()), await storage.emptyBucket(bucket)]

    expect(answer.status).toBeGreaterThanOrEqual(400)
    expect([opened.data, made.data, emptied.data]).toEqual([null, null, null])
    expect((await storage.listBuckets()).data).toEqual([])
  })
})

describe('the limit of bytes', () => {
  test('refuses the file that is too much, in words, and keeps what a refused replacement would have overwritten', async () => {
    const user = await newUser()
    const files = user.client.storage.from('images')
    const path = `${user.id}/${newName()}`
    await setLimit(user, 100)
    await files.upload(path, png())

    const more = await files.upload(`${user.id}/${newName()}`, png())
    const larger = await files.upload(path, png(new Uint8Array(101)), { upsert: true })
    const copied = await files.copy(path, `${user.id}/${newName()}`)

    const expected = /^The storage limit of 100 bytes is reached/
    for (const { error } of [more, larger, copied]) expect(error?.message).toMatch(expected)
    expect((await files.download(path)).data?.size).toBe(pngBytes.length)
    expect(await used(user)).toBe(pngBytes.length)
  })

  test('twenty uploads at once, of which five fit, make five', async () => {
    const user = await newUser()
    await setLimit(user, 5 * pngBytes.length)

    const results = await Promise.all(
      Array.from({ length: 20 }, () => user.client.storage.from('images').upload(`${user.id}/${newName()}`, png())),
    )

    expect(results.filter(({ error }) => !error)).toHaveLength(5)
    expect(await used(user)).toBe(5 * pngBytes.length)
  })
})

describe('access that ends', () => {
  test('with the session: the same token reads, lists and uploads nothing more', async () => {
    const user = await newUser()
    const files = user.client.storage.from('images')
    const path = `${user.id}/${newName()}`
    await files.upload(path, png())
    await db()`delete from auth.sessions where id = ${user.sessionId}`

    const attempts = [
      await files.download(path),
      await files.upload(`${user.id}/${newName()}`, png()),
      await files.createSignedUrl(path, 60),
    ]

    expect(attempts.map(({ data }) => data)).toEqual([null, null, null])
    expect((await files.list(user.id)).data).toEqual([])
    expect((await files.remove([path])).data).toEqual([])
  })

  test('with the account: a signed upload URL from before takes nothing', async () => {
    const user = await newUser()
    const files = user.client.storage.from('images')
    const path = `${user.id}/${newName()}`
    const token = (await files.createSignedUploadUrl(path)).data?.token ?? ''
    await db()`update public.profiles set status = 'suspended' where id = ${user.id}`

    const { data, error } = await files.uploadToSignedUrl(path, token, png())

    expect(data).toBeNull()
    expect(error?.message).toBe('This account is suspended or deleted.')
  })
})

describe('the look at the bytes', () => {
  const look = () =>
    checkUploads(
      {
        database: createUploadDatabase(db()),
        files: createUploadFiles({ apiUrl: target().apiUrl, secretKey: target().secretKey, fetch }),
        log: () => {},
      },
      1000,
    )
  const statusOf = async (path: string) =>
    (await owner.client.from('images').select('status').eq('path', path)).data?.map(({ status }) => status)

  test('removes a page that was sent as an image, and its owner can see why', async () => {
    const files = owner.client.storage.from('images')
    const path = `${owner.id}/${newName()}`
    await files.upload(path, new Blob(['<script>alert(1)</script>'], { type: 'image/png' }))

    await look()

    expect((await files.download(path)).data).toBeNull()
    expect(await statusOf(path)).toEqual(['rejected'])
    expect((await files.upload(path, png())).error).toBeNull()
    expect(await statusOf(path)).toEqual(['checking'])
  })

  test('leaves a true image, and says so', async () => {
    const path = `${owner.id}/${newName()}`
    await owner.client.storage.from('images').upload(path, png())

    await look()

    expect(await statusOf(path)).toEqual(['ok'])
    expect((await owner.client.storage.from('images').download(path)).data?.size).toBe(pngBytes.length)
  })
})

test('an image that is stored has a row that its owner sees', async () => {
  const path = `${owner.id}/${newName()}`
  await owner.client.storage.from('images').upload(path, png())

  const { data } = await owner.client.from('images').select('path, content_type, bytes, status').eq('path', path)

  expect(data).toEqual([{ path, content_type: 'image/png', bytes: pngBytes.length, status: 'checking' }])
})
