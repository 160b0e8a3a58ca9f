/** Moves old months of the audit log to storage: write, read back, compare, note, and only then drop. */
import { createClient } from '@supabase/supabase-js'
import { AppError } from '../errors.ts'
import { sha256Hex } from '../sha256.ts'
import type { ArchivePart, JobDatabase } from './job-database.ts'

export type ArchiveWorld = { database: JobDatabase; archive: ReturnType<typeof createArchive>; now(): number }

const budgetMs = 45_000

/**
 * Can die anywhere and be started again, also twice at once: what is done is noted in SQL, files are named by their
 * content and never overwritten, and the database drops a month only when its noted parts hold the whole chain.
 */
export async function archiveAudit(world: ArchiveWorld): Promise<{ parts: number; dropped: string[] }> {
  const until = world.now() + budgetMs
  const result = { parts: 0, dropped: [] as string[] }
  while (world.now() < until) {
    const part = await world.database.nextArchive()
    if (!part) break
    if (part.is_complete) {
      if (await world.database.dropMonth(part.month)) result.dropped.push(part.month)
    } else {
      await archivePart(part, world)
      result.parts += 1
    }
  }
  return result
}

async function archivePart(part: ArchivePart, world: ArchiveWorld): Promise<void> {
  const lines = await world.database.readEntries(part)
  const wanted = part.last_seq - part.first_seq + 1
  if (lines.length !== wanted) throw failure(`${part.month}: ${lines.length} entries where ${wanted} should be`)
  const bytes = await gzip(`${lines.join('\n')}\n`)
  const sha256 = await sha256Hex(bytes)
  const path = `${part.month.slice(0, 7)}/${String(part.part).padStart(5, '0')}-${sha256.slice(0, 16)}.ndjson.gz`
  await world.archive.upload(path, bytes)
  const stored = await sha256Hex(await world.archive.download(path))
  if (stored !== sha256) throw failure(`${path} is not in storage as it was written`)
  await world.database.recordArchive(part, sha256, path)
}

async function gzip(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream('gzip'))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

const bucket = 'audit-archive'

/** The bucket of archives. Only a secret key reaches it: no policy lets anybody else in. */
export function createArchive(url: string, secretKey: string) {
  const files = createClient(url, secretKey, {
    auth: { persistSession: false, autoRefreshToken: false },
  }).storage.from(bucket)
  return {
    /** Writes a new file; one that is there stays as it is. */
    upload: async (path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> => {
      const { error } = await files.upload(path, bytes, { contentType: 'application/gzip', upsert: false })
      // Its name has its hash in it: what is there already was written by an attempt that died, and is read back now.
      if (error && !/exists|duplicate/i.test(error.message)) throw failure(`upload of ${path}: ${nameOf(error)}`)
    },
    download: async (path: string): Promise<Uint8Array<ArrayBuffer>> => {
      const { data, error } = await files.download(path)
      if (error) throw failure(`download of ${path}: ${nameOf(error)}`)
      return new Uint8Array(await data.arrayBuffer())
    },
  }
}

/** What Storage answered, or that it did not. */
const nameOf = ({ name, status, statusCode }: { name: string; status?: unknown; statusCode?: unknown }): string =>
  [name, status, statusCode].filter(Boolean).join(' ')

/** For the log: the text is ours. */
const failure = (cause: string) => new AppError('internal', { cause })
