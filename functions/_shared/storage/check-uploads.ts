/** Looks at the bytes of new uploads, which Postgres cannot see: what is not of the type it claims to be is removed. */
import { fileTypeFromBuffer } from 'file-type'
import { AppError } from '../errors.ts'
import { describeFailure } from '../failure.ts'
import type { Upload, UploadDatabase } from './upload-database.ts'

export type UploadWorld = {
  database: UploadDatabase
  files: ReturnType<typeof createUploadFiles>
  log(line: Record<string, unknown>): void
}

type UploadReport = { ok: number; rejected: number; failed: number }

const typesByExtension: Record<string, string> = {
  png: 'image/png',
  jpg: 'image/jpeg',
  jpeg: 'image/jpeg',
  gif: 'image/gif',
  webp: 'image/webp',
}

/** Checks at most `max` uploads. One that fails is handed out again later; it keeps no other from its turn. */
export async function checkUploads(world: UploadWorld, max = 50): Promise<UploadReport> {
  const report: UploadReport = { ok: 0, rejected: 0, failed: 0 }
  for (const upload of await world.database.claim(max)) {
    try {
      report[await checkUpload(world, upload)] += 1
    } catch (error) {
      report.failed += 1
      world.log({ event: 'upload_check_failed', object_id: upload.objectId, cause: describeFailure(error) })
    }
  }
  return report
}

async function checkUpload(world: UploadWorld, upload: Upload): Promise<'ok' | 'rejected'> {
  if (!upload.rejected) {
    const found = await detectType(await world.files.readHead(upload))
    if (found === upload.contentType && found === declaredByName(upload.name)) {
      await world.database.finish(upload, 'ok', found)
      return 'ok'
    }
    // Noted first: should this process end here, whoever is next removes the file.
    if (!(await world.database.finish(upload, 'rejected', found))) return 'rejected'
  }
  await world.files.remove(upload)
  await world.database.finish(upload, 'removed', null)
  return 'rejected'
}

/** The type that the bytes themselves show; null when they show none. An animated PNG is a PNG. */
async function detectType(head: Uint8Array): Promise<string | null> {
  const found = await fileTypeFromBuffer(head)
  return found?.mime === 'image/apng' ? 'image/png' : (found?.mime ?? null)
}

const declaredByName = (name: string) => typesByExtension[/\.([^./]+)$/.exec(name)?.[1]?.toLowerCase() ?? '']

type Storage = {
  /** The project's URL, without /storage/v1. */
  apiUrl: string
  secretKey: string
  fetch(url: string, init: RequestInit): Promise<Response>
}

/** What magic numbers need, and no more: a file is not loaded to see how it begins. */
const headBytes = 4100

/** The files, through the Storage API with the secret key. */
export function createUploadFiles({ apiUrl, secretKey, fetch }: Storage) {
  // A legacy key is a token, and the self-hosted gateway makes none of a key by itself.
  const asToken = secretKey.startsWith('sb_') ? {} : { authorization: `Bearer ${secretKey}` }
  const request = async (method: string, path: string, { headers, ...init }: RequestInit) => {
    const all = { ...init, method, headers: { ...headers, ...asToken, apikey: secretKey } }
    const answer = await fetch(`${apiUrl}/storage/v1/object/${path}`, all)
    // Without the path: its last part is the name that somebody gave to a file.
    if (!answer.ok) throw new AppError('internal', { cause: `Storage answered ${answer.status} to ${method}` })
    return answer
  }
  return {
    /** The first bytes of a file, at least 4100 when it has as many. */
    readHead: async ({ bucketId, name }: Upload): Promise<Uint8Array> => {
      const path = [bucketId, ...name.split('/')].map(encodeURIComponent).join('/')
      return readHead(await request('GET', path, { headers: { range: `bytes=0-${headBytes - 1}` } }))
    },
    remove: async ({ bucketId, name }: Upload): Promise<void> => {
      const headers = { 'content-type': 'application/json' }
      await request('DELETE', bucketId, { headers, body: JSON.stringify({ prefixes: [name] }) })
    },
  }
}

/** The beginning of a body, also from a service that does not know ranges. */
async function readHead(answer: Response): Promise<Uint8Array> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of answer.body ?? []) {
    chunks.push(new Uint8Array(chunk))
    size += chunk.byteLength
    if (size >= headBytes) break
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer())
}
