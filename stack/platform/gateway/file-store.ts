/** Where the local Storage service keeps bytes: one file per object, named by a hash, so no name escapes the folder. */
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { copyFile, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { App } from '@supabase/lite'
import { z } from 'zod'

type Adapter = NonNullable<App['_storageAdapter']>

const metadata = z.object({
  cacheControl: z.string(),
  contentLength: z.number(),
  size: z.number(),
  mimetype: z.string(),
  eTag: z.string(),
  lastModified: z.coerce.date(),
})

class MissingObject extends Error {
  code = 'ENOENT'
}

/** lite's storage adapter on a folder; lite itself ships one that its package does not export. */
export function createFileStore(folder: string): Adapter {
  // lite writes with a version and reads without: an object is its bucket and name, replaced whole.
  const pathOf = (bucket: string, key: string) => {
    const name = createHash('sha256')
      .update(JSON.stringify([bucket, key]))
      .digest('hex')
    return join(folder, name.slice(0, 2), name)
  }
  const read = async (path: string) => {
    const text = await readFile(`${path}.json`, 'utf8').catch(() => {
      throw new MissingObject('Object not found')
    })
    return metadata.parse(JSON.parse(text))
  }
  const remove = (path: string) => Promise.all([rm(path, { force: true }), rm(`${path}.json`, { force: true })])

  return {
    driver: null,
    async getObject(bucket, key) {
      const path = pathOf(bucket, key)
      const found = await read(path)
      const body = Readable.toWeb(createReadStream(path))
      return { metadata: { ...found, httpStatusCode: 200 }, httpStatusCode: 200, body }
    },
    async uploadObject(bucket, key, _version, body, mimetype, cacheControl) {
      const path = pathOf(bucket, key)
      await mkdir(join(path, '..'), { recursive: true })
      const hash = createHash('md5')
      let size = 0
      const source = body instanceof Uint8Array ? [body] : body
      const count = async function* (chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) {
        for await (const chunk of chunks) {
          size += chunk.byteLength
          hash.update(chunk)
          yield chunk
        }
      }
      const unfinished = `${path}.${crypto.randomUUID()}`
      try {
        await pipeline(count(source), createWriteStream(unfinished, { mode: 0o600 }))
        await rename(unfinished, path)
      } finally {
        await rm(unfinished, { force: true })
      }
      const stored = {
        cacheControl,
        contentLength: size,
        size,
        mimetype,
        eTag: `"${hash.digest('hex')}"`,
        lastModified: new Date(),
      }
      await writeFile(`${path}.json`, JSON.stringify(stored), { mode: 0o600 })
      return { ...stored, httpStatusCode: 200 }
    },
    async deleteObject(bucket, key) {
      await remove(pathOf(bucket, key))
    },
    async deleteObjects(bucket, keys) {
      await Promise.all(keys.map((key) => remove(pathOf(bucket, key))))
    },
    async copyObject(fromBucket, from, _fromVersion, toBucket, to) {
      const [source, target] = [pathOf(fromBucket, from), pathOf(toBucket, to)]
      const { eTag, lastModified } = await read(source)
      await mkdir(join(target, '..'), { recursive: true })
      await Promise.all([copyFile(source, target), copyFile(`${source}.json`, `${target}.json`)])
      return { httpStatusCode: 200, eTag, lastModified }
    },
    async headObject(bucket, key) {
      return { ...(await read(pathOf(bucket, key))), httpStatusCode: 200 }
    },
    async privateAssetUrl(bucket, key) {
      return `file://${pathOf(bucket, key)}`
    },
  }
}
