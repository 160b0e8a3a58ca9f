/** The world of check-uploads: the queue in Postgres, the files through the Storage API with the secret key. */
import { z } from 'zod'
import type { Database } from '../db.ts'
import type { UploadWorld } from './check-uploads.ts'

type Parts = {
  sql: Database
  /** The project's URL, without /storage/v1. */
  apiUrl: string
  secretKey: string
  fetch(url: string, init: RequestInit): Promise<Response>
  log(line: Record<string, unknown>): void
}

const uploads = z.array(
  z.object({
    objectId: z.string(),
    bucketId: z.string(),
    name: z.string(),
    version: z.string().nullable(),
    contentType: z.string(),
    rejected: z.boolean(),
  }),
)

/** What magic numbers need, and no more: a file is not loaded to see how it begins. */
const headBytes = 4100

export function createUploadWorld({ sql, apiUrl, secretKey, fetch, log }: Parts): UploadWorld {
  const request = async (path: string, init: RequestInit) => {
    const headers = { ...init.headers, apikey: secretKey }
    const answer = await fetch(`${apiUrl}/storage/v1/object/${path}`, { ...init, headers })
    if (!answer.ok) throw new Error(`Storage answered ${answer.status} for ${path}`)
    return answer
  }
  return {
    log,
    claim: async (max) =>
      uploads.parse([
        ...(await sql`
          select object_id as "objectId", bucket_id as "bucketId", name, version, content_type as "contentType", rejected
          from private.claim_uploads_to_check(${max})`),
      ]),
    readHead: async ({ bucketId, name }) => {
      const path = [bucketId, ...name.split('/')].map(encodeURIComponent).join('/')
      return readHead(await request(path, { headers: { range: `bytes=0-${headBytes - 1}` } }))
    },
    remove: async ({ bucketId, name }) => {
      const headers = { 'content-type': 'application/json' }
      await request(bucketId, { method: 'DELETE', headers, body: JSON.stringify({ prefixes: [name] }) })
    },
    finish: async ({ objectId, version }, verdict, foundType) => {
      const [row] = await sql`
        select private.finish_upload_check(${objectId}::uuid, ${version}::text, ${verdict}::text, ${foundType}::text) as done`
      return row?.done === true
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
