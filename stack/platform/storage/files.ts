/** Where the local Storage service keeps bytes: one file per version of an object, named by a hash, so no name escapes the folder. */
import { createHash } from 'node:crypto'
import { copyFile, mkdir, open, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { problems } from './errors.ts'

export type Place = { bucket_id: string; name: string; version: string }
export type Files = ReturnType<typeof createFiles>

export function createFiles(folder: string) {
  const pathOf = ({ bucket_id, name, version }: Place) => {
    const hash = createHash('sha256')
      .update(JSON.stringify([bucket_id, name, version]))
      .digest('hex')
    return join(folder, hash.slice(0, 2), hash)
  }
  const newPath = async (place: Place) => {
    const path = pathOf(place)
    await mkdir(join(path, '..'), { recursive: true, mode: 0o700 })
    return path
  }
  return {
    /** Whole or not at all. */
    async write(place: Place, bytes: Uint8Array): Promise<void> {
      const path = await newPath(place)
      try {
        await writeFile(`${path}.part`, bytes, { mode: 0o600 })
        await rename(`${path}.part`, path)
      } catch (error) {
        // On a disk that is full every byte counts.
        await rm(`${path}.part`, { force: true })
        throw error
      }
    },
    /** The bytes from `start` to `end`, both included. */
    async read(place: Place, range: { start: number; end: number }): Promise<ReadableStream> {
      const file = await open(pathOf(place)).catch(asMissing)
      return Readable.toWeb(file.createReadStream(range)) as ReadableStream
    },
    async copy(from: Place, to: Place): Promise<void> {
      await copyFile(pathOf(from), await newPath(to)).catch(asMissing)
    },
    async remove(places: Place[]): Promise<void> {
      await Promise.all(places.map((place) => rm(pathOf(place), { force: true })))
    },
  }
}

/** A row without its bytes: somebody emptied the folder. */
function asMissing(error: NodeJS.ErrnoException): never {
  throw error.code === 'ENOENT' ? problems.noSuchKey() : error
}
