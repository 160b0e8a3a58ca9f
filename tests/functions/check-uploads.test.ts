/** The look at the bytes of uploads, with files and a queue in memory. */
import { describe, expect, test } from 'vitest'
import { checkUploads, createUploadFiles, type UploadWorld } from '../../functions/_shared/storage/check-uploads.ts'
import type { Upload, UploadDatabase } from '../../functions/_shared/storage/upload-database.ts'

const bytes = {
  png: Buffer.from(
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
    'base64',
  ),
  jpeg: Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 16, 0x4a, 0x46, 0x49, 0x46, 0, 1]),
  gif: Buffer.from('GIF89a\x01\0\x01\0\0\0\0', 'latin1'),
  webp: Buffer.from('RIFF\x1a\0\0\0WEBPVP8L', 'latin1'),
  page: Buffer.from('<!doctype html><script>alert(1)</script>'),
  drawing: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'),
  program: Buffer.from('MZ\x90\0\x03\0\0\0', 'latin1'),
}

/** A queue of one upload; `done` is what happened to it, in order. */
function worldOf(upload: Partial<Upload>, content: Uint8Array, said: Partial<UploadDatabase> = {}) {
  const done: string[] = []
  const one = {
    objectId: 'o',
    bucketId: 'images',
    name: 'u/x.png',
    version: 'v',
    contentType: 'image/png',
    rejected: false,
  }
  const world: UploadWorld = {
    database: {
      claim: async () => [{ ...one, ...upload }],
      finish: async (_upload, verdict, found) => Boolean(done.push(`${verdict} ${found}`)),
      ...said,
    },
    files: { readHead: async () => content, remove: async ({ name }) => void done.push(`remove ${name}`) },
    log: (line) => void done.push(`log ${line.event} ${line.cause}`),
  }
  return { world, done }
}

describe('a liar', () => {
  test.each([
    ['a page', bytes.page],
    ['a drawing with scripts', bytes.drawing],
    ['a program', bytes.program],
    ['another image', bytes.gif],
    ['nothing known', Buffer.from('hello')],
    ['nothing', Buffer.from('')],
  ])('%s sent as a PNG is noted as rejected before it is removed', async (_what, content) => {
    const { world, done } = worldOf({}, content)

    const report = await checkUploads(world)

    expect(report).toEqual({ ok: 0, rejected: 1, failed: 0 })
    expect(done.map((step) => step.split(' ')[0])).toEqual(['rejected', 'remove', 'removed'])
  })

  test('whose name says another type than its bytes is removed, whatever was declared', async () => {
    const { world, done } = worldOf({ name: 'u/x.gif', contentType: 'image/png' }, bytes.png)

    await checkUploads(world)

    expect(done).toContain('remove u/x.gif')
  })

  test('that was replaced meanwhile is not removed: the new file has its own turn', async () => {
    const { world, done } = worldOf({}, bytes.page, { finish: async () => false })

    await checkUploads(world)

    expect(done).toEqual([])
  })

  test('whose removal failed is removed the next time, without a second look', async () => {
    const { world, done } = worldOf({ rejected: true }, bytes.png)

    await checkUploads(world)

    expect(done).toEqual(['remove u/x.png', 'removed null'])
  })
})

test.each([
  ['png', 'image/png', bytes.png],
  ['jpg', 'image/jpeg', bytes.jpeg],
  ['JPEG', 'image/jpeg', bytes.jpeg],
  ['gif', 'image/gif', bytes.gif],
  ['webp', 'image/webp', bytes.webp],
])('a true .%s stays', async (extension, contentType, content) => {
  const { world, done } = worldOf({ name: `u/x.y.${extension}`, contentType }, content)

  expect(await checkUploads(world)).toEqual({ ok: 1, rejected: 0, failed: 0 })
  expect(done).toEqual([`ok ${contentType}`])
})

test('a file that cannot be read is left for later and keeps no other from its turn', async () => {
  const { world, done } = worldOf({}, bytes.png)
  const [upload] = await world.database.claim(1)
  const storage = createUploadFiles({
    ...{ apiUrl: 'http://127.0.0.1', secretKey: 'sb_secret_x' },
    fetch: async (url) =>
      url.endsWith('/object/images/u/broken.png') ? new Response(null, { status: 503 }) : new Response(bytes.png),
  })
  const two = {
    ...world,
    database: { ...world.database, claim: async () => [{ ...upload, name: 'u/broken.png' }, upload] as Upload[] },
    files: storage,
  }

  expect(await checkUploads(two)).toEqual({ ok: 1, rejected: 0, failed: 1 })
  expect(done).toEqual(['log upload_check_failed Storage answered 503 to GET', 'ok image/png'])
})

test.each([
  ['a secret key goes in the header apikey alone', 'sb_secret_x', null],
  [
    'a legacy key is a token as well, because a self-hosted gateway makes none of it',
    'a.legacy.key',
    'Bearer a.legacy.key',
  ],
])('%s', async (_, secretKey, authorization) => {
  const sent: Headers[] = []
  const fetch = async (_url: string, { headers }: RequestInit) => {
    sent.push(new Headers(headers))
    return new Response(bytes.png)
  }
  const { world } = worldOf({}, bytes.png)

  await checkUploads({ ...world, files: createUploadFiles({ apiUrl: 'http://127.0.0.1', secretKey, fetch }) })

  expect(sent.map((headers) => [headers.get('apikey'), headers.get('authorization')])).toEqual([
    [secretKey, authorization],
  ])
})
