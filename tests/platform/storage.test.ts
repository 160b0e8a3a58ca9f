/** The Storage service refuses what the real one refuses, in its words: names, types, sizes, signed addresses, deletes. */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newUser, type TestUser } from '../support/users.ts'
import { target } from '../target.ts'

const bucket = `test-${crypto.randomUUID()}`
const sql = { db: null as postgres.Sql | null }
const db = () => {
  sql.db ??= postgres(target().dbUrl, { max: 1, onnotice: () => {} })
  return sql.db
}

type Body = NonNullable<RequestInit['body']>
type Ask = { body?: Body | object; headers?: Record<string, string>; token?: string }
type Answer = { status: number; headers: Headers; text: string; json: Record<string, unknown> }

/** A request to Storage with the secret key, or with a user's token. */
async function ask(method: string, path: string, { body, headers = {}, token }: Ask = {}): Promise<Answer> {
  const isJson = body !== undefined && Object.getPrototypeOf(body) === Object.prototype
  const who = token
    ? { apikey: target().publishableKey, authorization: `Bearer ${token}` }
    : { apikey: target().secretKey }
  const answer = await fetch(`${target().apiUrl}/storage/v1${path}`, {
    method,
    headers: { ...who, ...(isJson ? { 'content-type': 'application/json' } : {}), ...headers },
    ...(body === undefined ? {} : { body: isJson ? JSON.stringify(body) : (body as Body) }),
  })
  const text = await answer.text()
  const json = /^application\/json/.test(answer.headers.get('content-type') ?? '') && text ? JSON.parse(text) : {}
  return { status: answer.status, headers: answer.headers, text, json }
}

const put = (name: string, body: Body = 'kept', headers: Record<string, string> = {}) =>
  ask('POST', `/object/${bucket}/${encodeURI(name)}`, { body, headers: { 'content-type': 'text/plain', ...headers } })

/** What the real service's refusals look like: its own status is in the body. */
const refused = (statusCode: string, code: string, message: unknown, error = code) => ({
  status: 400,
  json: { statusCode, error, message, code },
})

let user: TestUser
beforeAll(async () => {
  user = await newUser()
  await ask('POST', '/bucket', { body: { name: bucket } })
})
afterAll(async () => {
  const names = await db()`select name from storage.objects where bucket_id = ${bucket}`
  if (names.length > 0) await ask('DELETE', `/object/${bucket}`, { body: { prefixes: names.map(({ name }) => name) } })
  await ask('DELETE', `/bucket/${bucket}`)
  await sql.db?.end()
})

describe('a name outside the character set', () => {
  const key = (name: string) => refused('400', 'InvalidKey', `Invalid key: ${name}`)

  test.each([
    'müller.txt',
    '日本.txt',
    'a%b.txt',
    'a#b.txt',
    'a\\b.txt',
    'a[1].txt',
    'a\nb.txt',
    'a~b.txt',
    'a"b".txt',
  ])('%j is refused where a file would get it, and where one is read', async (name) => {
    await put('source.txt', 'kept', { 'x-upsert': 'true' })
    const body = { bucketId: bucket, sourceKey: 'source.txt', destinationKey: name }
    const path = `${bucket}/${encodeURIComponent(name)}`

    const answers = await Promise.all([
      ask('POST', `/object/${path}`, { body: 'x', headers: { 'content-type': 'text/plain' } }),
      ask('POST', '/object/copy', { body }),
      ask('POST', '/object/move', { body }),
      ask('GET', `/object/${path}`),
      ask('POST', `/object/sign/${path}`, { body: { expiresIn: 60 } }),
    ])

    for (const answer of answers) expect(answer).toMatchObject(key(name))
  })

  test.each(['with space.txt', "it's (1) & more!.txt", 'a+b=c,d;e:f@g$h?.txt', 'deep/er/file-1_2.txt'])(
    '%j is inside it: stored, listed and read',
    async (name) => {
      const path = `/object/${bucket}/${name.split('/').map(encodeURIComponent).join('/')}`

      const stored = await ask('POST', path, { body: 'kept', headers: { 'content-type': 'text/plain' } })

      expect(stored).toMatchObject({ status: 200, json: { Key: `${bucket}/${name}` } })
      expect((await ask('GET', path)).text).toBe('kept')
      expect((await ask('DELETE', path)).status).toBe(200)
    },
  )

  test.each(['bücher', 'a/b', 'a%b', 'a#b', 'x'.repeat(101), ' spaced ', 'lake--iceberg'])(
    '%j is no bucket',
    async (name) => {
      expect(await ask('POST', '/bucket', { body: { name } })).toMatchObject(
        refused('400', 'InvalidBucketName', 'Bucket name invalid', 'Invalid Input'),
      )
    },
  )
})

describe('types and sizes', () => {
  const withBucket = async (options: object, story: (name: string) => Promise<void>) => {
    const name = `test-${crypto.randomUUID()}`
    expect((await ask('POST', '/bucket', { body: { name, ...options } })).status).toBe(200)
    try {
      await story(name)
    } finally {
      await ask('DELETE', `/bucket/${name}`)
    }
  }
  const send = (name: string, body: Body, type: string) =>
    ask('POST', `/object/${name}/x`, { body, headers: { 'content-type': type, 'x-upsert': 'true' } })
  const inForm = (bytes: Uint8Array<ArrayBuffer>, type: string) => {
    const form = new FormData()
    form.append('', new Blob([bytes], { type }))
    return form
  }

  test.each([
    ['image/*', 'image/png', true],
    ['image/*', 'text/plain', false],
    ['text/plain', 'text/plain', true],
    ['text/plain', 'text/plain;charset=utf-8', false],
    ['text/plain', 'text', false],
  ])('a bucket for %s and a file of type %s: taken is %s', (allowed, type, isTaken) =>
    withBucket({ allowed_mime_types: [allowed] }, async (name) => {
      const answer = await send(name, 'x', type)

      if (isTaken) expect(answer.status).toBe(200)
      else
        expect(answer).toMatchObject(
          refused('415', 'InvalidMimeType', `mime type ${type} is not supported`, 'invalid_mime_type'),
        )
      await ask('DELETE', `/object/${name}/x`)
    }),
  )

  test('a file above the bucket’s limit is refused, alone or in a form; one at the limit is not', () =>
    withBucket({ file_size_limit: '1KB' }, async (name) => {
      const tooLarge = refused(
        '413',
        'EntityTooLarge',
        'The object exceeded the maximum allowed size',
        'Payload too large',
      )
      const post = (body: Body) => ask('POST', `/object/${name}/y`, { body, headers: { 'x-upsert': 'true' } })

      expect(await send(name, new Uint8Array(1001), 'text/plain')).toMatchObject(tooLarge)
      expect(await post(inForm(new Uint8Array(1001), 'text/plain'))).toMatchObject(tooLarge)
      expect((await send(name, new Uint8Array(1000), 'text/plain')).status).toBe(200)
      expect((await post(inForm(new Uint8Array(1000), 'text/plain'))).status).toBe(200)
      await ask('DELETE', `/object/${name}`, { body: { prefixes: ['x', 'y'] } })
    }))

  test('an empty folder’s placeholder has no bytes', async () => {
    expect(await put('folder/.emptyFolderPlaceholder', 'x')).toMatchObject({ json: { code: 'EntityTooLarge' } })
    expect((await put('folder/.emptyFolderPlaceholder', '')).status).toBe(200)
  })

  test.each([
    [{ file_size_limit: '2GB' }, '413', 'EntityTooLarge'],
    [{ file_size_limit: 'much' }, '400', 'InvalidRequest'],
    [{ allowed_mime_types: ['not a type'] }, '415', 'InvalidMimeType'],
    [{ type: 'VECTOR' }, '400', 'InvalidRequest'],
  ])('a bucket with %j is refused', async (options, statusCode, code) => {
    const name = `test-${crypto.randomUUID()}`

    expect(await ask('POST', '/bucket', { body: { name, ...options } })).toMatchObject({
      status: 400,
      json: { statusCode, code },
    })
  })
})

describe('a signed address', () => {
  const name = `signed-${crypto.randomUUID()}.txt`
  const sign = async (expiresIn: number) =>
    String((await ask('POST', `/object/sign/${bucket}/${name}`, { body: { expiresIn } })).json.signedURL)
  const tokenOf = (address: string) => new URL(address, 'http://x').searchParams.get('token') ?? ''
  /** Without any key, as whoever got the address has it. */
  const visit = async (address: string, init: RequestInit = {}) => {
    const answer = await fetch(`${target().apiUrl}/storage/v1${address}`, init)
    const text = await answer.text()
    return { status: answer.status, text, json: answer.ok ? {} : JSON.parse(text) }
  }
  beforeAll(() => put(name))

  test('reads the file, and no other', async () => {
    await put(`other-${name}`)
    const address = await sign(60)

    expect(await visit(address)).toMatchObject({ status: 200, text: 'kept' })
    expect((await fetch(`${target().apiUrl}/storage/v1${address}`)).headers.get('cache-control')).toBeNull()
    expect(await visit(address.replace(name, `other-${name}`))).toMatchObject(
      refused('400', 'InvalidSignature', 'Invalid signature'),
    )
  })

  test('is worth nothing when its token was changed, is missing or is too old', async () => {
    const address = await sign(1)
    const old = await expect
      .poll(() => visit(address), { interval: 200, timeout: 10_000 })
      .toMatchObject({ status: 400 })
      .then(() => visit(address))

    expect(old).toMatchObject(refused('400', 'InvalidJWT', '"exp" claim timestamp check failed'))
    expect(await visit(`${address.slice(0, -2)}xx`)).toMatchObject({ status: 400, json: { code: 'InvalidJWT' } })
    expect(await visit(`/object/sign/${bucket}/${name}`)).toMatchObject({ status: 400, json: { statusCode: '400' } })
  })

  test('to read is no address to write, nor the reverse', async () => {
    const read = tokenOf(await sign(60))
    const { token: write } = (
      await ask('POST', `/object/upload/sign/${bucket}/${name}`, { headers: { 'x-upsert': 'true' } })
    ).json

    expect(
      await visit(`/object/upload/sign/${bucket}/${name}?token=${read}`, { method: 'PUT', body: 'forged' }),
    ).toMatchObject(refused('400', 'InvalidSignature', 'Token is not scoped for upload'))
    expect(await visit(`/object/sign/${bucket}/${name}?token=${write}`)).toMatchObject(
      refused('400', 'InvalidSignature', 'Token is not scoped for download'),
    )
    expect((await ask('GET', `/object/${bucket}/${name}`)).text).toBe('kept')
  })

  test('to write does not replace, unless it was signed for that', async () => {
    expect(await ask('POST', `/object/upload/sign/${bucket}/${name}`)).toMatchObject(
      refused('409', 'KeyAlreadyExists', 'The resource already exists', 'Duplicate'),
    )
  })

  test.each([0, -5, 1.5, '60'])('for %j seconds is refused', async (expiresIn) => {
    expect(await ask('POST', `/object/sign/${bucket}/${name}`, { body: { expiresIn } })).toMatchObject({
      status: 400,
      json: { code: 'InvalidRequest' },
    })
  })

  test('lives for a day and not for longer, alone or among others', async () => {
    const [one, many] = [`/object/sign/${bucket}/${name}`, `/object/sign/${bucket}`]
    const status = async (path: string, expiresIn: number) =>
      (await ask('POST', path, { body: { expiresIn, paths: [name] } })).status

    expect([await status(one, 86_400), await status(many, 86_400)]).toEqual([200, 200])
    expect([await status(one, 86_401), await status(many, 86_401)]).toEqual([400, 400])
  })
})

describe('what is not there, or not theirs', () => {
  const noKey = refused('404', 'NoSuchKey', 'Object not found', 'not_found')
  const noBucket = refused('404', 'NoSuchBucket', 'Bucket not found', 'Bucket not found')

  test('one answer for a missing file and a file of others', async () => {
    const name = `secret-${crypto.randomUUID()}.txt`
    await put(name)

    for (const path of [name, 'missing.txt']) {
      expect(await ask('GET', `/object/${bucket}/${path}`, { token: user.accessToken })).toMatchObject(noKey)
    }
    expect(await ask('DELETE', `/object/${bucket}/missing.txt`)).toMatchObject(noKey)
    expect(await ask('DELETE', `/object/${bucket}/${name}`, { token: user.accessToken })).toMatchObject(
      refused('403', 'AccessDenied', 'Access denied', 'Unauthorized'),
    )
  })

  test('a missing bucket', async () => {
    expect(await ask('GET', '/object/nowhere/x.txt')).toMatchObject(noBucket)
    expect(await ask('POST', '/object/nowhere/x.txt', { body: 'x' })).toMatchObject(noBucket)
    expect(await ask('GET', '/bucket/nowhere')).toMatchObject(noBucket)
    expect(await ask('GET', `/object/public/${bucket}/x.txt`)).toMatchObject(noBucket)
    expect((await ask('POST', '/object/list/nowhere', { body: { prefix: '' } })).json).toEqual([])
  })

  test('a write that no policy allows, and one to a place that is taken', async () => {
    await put('taken.txt', 'kept', { 'x-upsert': 'true' })

    expect(await ask('POST', `/object/${bucket}/x.txt`, { token: user.accessToken, body: 'x' })).toMatchObject(
      refused('403', 'AccessDenied', 'new row violates row-level security policy', 'Unauthorized'),
    )
    expect(await put('taken.txt')).toMatchObject(
      refused('409', 'KeyAlreadyExists', 'The resource already exists', 'Duplicate'),
    )
    expect(await ask('POST', '/bucket', { body: { name: bucket } })).toMatchObject(
      refused('409', 'BucketAlreadyExists', 'The resource already exists', 'Duplicate'),
    )
    expect(await ask('DELETE', `/bucket/${bucket}`)).toMatchObject({ json: { code: 'ResourceNotEmpty' } })
  })

  test('a path that leads nowhere is 404, and a body that is no JSON 400', async () => {
    expect(await ask('GET', '/nothing')).toMatchObject({ status: 404, json: { error: 'Not Found' } })
    expect(
      await ask('POST', '/object/move', { body: '{', headers: { 'content-type': 'application/json' } }),
    ).toMatchObject({ status: 400, json: { code: 'InvalidRequest' } })
  })
})

describe('the guard of the rows', () => {
  test('lets nobody delete by SQL, not even the service’s role, and the API delete', async () => {
    const name = `guarded-${crypto.randomUUID()}.txt`
    await put(name)
    const message = 'Direct deletion from storage tables is not allowed. Use the Storage API instead.'
    const attempts = ['postgres', 'service_role'].map((role) =>
      db().begin(async (tx) => {
        await tx`select set_config('role', ${role}, true)`
        return tx`delete from storage.objects where bucket_id = ${bucket} and name = ${name}`
      }),
    )

    for (const attempt of attempts) await expect(attempt).rejects.toMatchObject({ code: '42501', message })
    expect((await ask('DELETE', `/object/${bucket}/${name}`)).json).toEqual({ message: 'Successfully deleted' })
    expect(await db()`select from storage.objects where bucket_id = ${bucket} and name = ${name}`).toHaveLength(0)
  })

  test.skipIf(!target().own)('a file that is replaced, moved or deleted leaves no bytes behind', async () => {
    const folder = join(target().own?.data ?? '', 'storage')
    const count = () =>
      existsSync(folder)
        ? readdirSync(folder, { recursive: true, withFileTypes: true }).filter((e) => e.isFile()).length
        : 0
    const before = count()
    const name = `bytes-${crypto.randomUUID()}.txt`

    await put(name)
    await put(name, 'again', { 'x-upsert': 'true' })
    await put(name, 'refused')
    await ask('POST', '/object/move', { body: { bucketId: bucket, sourceKey: name, destinationKey: `moved-${name}` } })
    expect(count()).toBe(before + 1)
    expect((await ask('GET', `/object/${bucket}/moved-${name}`)).text).toBe('again')

    expect(
      (await ask('DELETE', `/object/${bucket}`, { body: { prefixes: [`moved-${name}`, 'none'] } })).json,
    ).toMatchObject([{ name: `moved-${name}` }])
    expect(count()).toBe(before)
  })
})

describe('a file that is read', () => {
  test('comes in parts when asked, and not again when it has not changed', async () => {
    const name = `part-${crypto.randomUUID()}.txt`
    await put(name, '0123456789', { 'cache-control': 'max-age=60' })
    const get = (headers: Record<string, string>) => ask('GET', `/object/${bucket}/${name}`, { headers })

    const whole = await get({})
    const part = await get({ range: 'bytes=2-4' })

    expect([whole.text, whole.headers.get('cache-control')]).toEqual(['0123456789', 'max-age=60'])
    expect([part.status, part.text, part.headers.get('content-range')]).toEqual([206, '234', 'bytes 2-4/10'])
    expect((await get({ range: 'bytes=-3' })).text).toBe('789')
    expect(await get({ range: 'bytes=20-' })).toMatchObject({ status: 400, json: { code: 'InvalidRange' } })
    expect((await get({ 'if-none-match': whole.headers.get('etag') ?? '' })).status).toBe(304)
  })

  test.each(['1\r\nx: y', '1\u2603'])(
    'is not kept with %j as its time in caches, which no header can say',
    async (time) => {
      const body = new FormData()
      body.append('cacheControl', time)
      body.append('', new Blob(['x'], { type: 'text/plain' }))

      expect(await ask('POST', `/object/${bucket}/${crypto.randomUUID()}.txt`, { body })).toMatchObject({ status: 400 })
    },
  )

  test('is never a page, whatever it was sent as, and a download when asked', async () => {
    const name = `page-${crypto.randomUUID()}.html`
    await put(name, '<b>', { 'content-type': 'TEXT/HTML' })

    const answer = await ask('GET', `/object/${bucket}/${name}?download=x.html`)

    expect(answer.headers.get('content-type')).toMatch(/^text\/plain/)
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    expect(answer.headers.get('content-disposition')).toBe("attachment; filename=x.html; filename*=UTF-8''x.html")
  })

  test('HEAD and info tell its size and no bytes', async () => {
    const name = `info-${crypto.randomUUID()}.txt`
    const note = Buffer.from('{"why":"test"}').toString('base64')
    await put(name, 'kept', { 'x-metadata': note })

    const head = await ask('HEAD', `/object/${bucket}/${name}`)
    const { json } = await ask('GET', `/object/info/${bucket}/${name}`)

    expect([head.status, head.headers.get('content-length'), head.text]).toEqual([200, '4', ''])
    expect(json).toMatchObject({ name, size: 4, content_type: 'text/plain', metadata: { why: 'test' } })
  })
})

describe('a list', () => {
  const folder = `list-${crypto.randomUUID()}`
  const list = (body: object) => ask('POST', `/object/list/${bucket}`, { body: { prefix: folder, ...body } })
  const names = ({ json }: Answer) => (json as unknown as { name: string }[]).map(({ name }) => name)
  beforeAll(async () => {
    for (const name of ['b.txt', 'a.txt', 'inner/x.txt', 'inner/y.txt', 'z/deep/er.txt']) await put(`${folder}/${name}`)
  })

  test('has names below the prefix, and each folder once without an id', async () => {
    const all = await list({})

    expect(names(all)).toEqual(['a.txt', 'b.txt', 'inner', 'z'])
    expect((all.json as unknown as { id: string | null }[]).map(({ id }) => id === null)).toEqual([
      false,
      false,
      true,
      true,
    ])
    expect(names(await list({ limit: 2, offset: 1 }))).toEqual(['b.txt', 'inner'])
    expect(names(await list({ sortBy: { column: 'name', order: 'desc' } }))).toEqual(['z', 'inner', 'b.txt', 'a.txt'])
    expect(names(await list({ sortBy: { column: 'created_at', order: 'desc' } }))).toEqual([
      'z',
      'inner',
      'a.txt',
      'b.txt',
    ])
    expect(names(await list({ search: 'a' }))).toEqual(['a.txt'])
    expect(await list({ limit: 0 })).toMatchObject({ status: 400, json: { code: 'InvalidRequest' } })
  })

  test('by cursor goes on where the page before ended', async () => {
    const page = async (cursor?: unknown) =>
      (
        await ask('POST', `/object/list-v2/${bucket}`, {
          body: { prefix: `${folder}/`, limit: 3, with_delimiter: true, ...(cursor ? { cursor } : {}) },
        })
      ).json as { hasNext: boolean; nextCursor?: string; folders: { name: string }[]; objects: { name: string }[] }

    const first = await page()
    const second = await page(first.nextCursor)

    expect(first.objects.map(({ name }) => name)).toEqual([`${folder}/a.txt`, `${folder}/b.txt`])
    expect(first.folders.map(({ name }) => name)).toEqual([`${folder}/inner/`])
    expect([second.hasNext, second.folders.map(({ name }) => name)]).toEqual([false, [`${folder}/z/`]])
  })

  test('may be all that a policy allows: it is told which operation asks', async () => {
    await db().unsafe(`create policy "${bucket} may be listed" on storage.objects for select to authenticated
      using (bucket_id = '${bucket}' and storage.allow_only_operation('object.list'))`)
    const token = user.accessToken

    const listed = await ask('POST', `/object/list/${bucket}`, { token, body: { prefix: folder } })
    const read = await ask('GET', `/object/${bucket}/${folder}/a.txt`, { token })
    await db().unsafe(`drop policy "${bucket} may be listed" on storage.objects`)

    expect(names(listed)).toContain('a.txt')
    expect(read).toMatchObject({ status: 400, json: { code: 'NoSuchKey' } })
  })
})
