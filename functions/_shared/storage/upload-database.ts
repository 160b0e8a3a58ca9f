/** The queue of uploads to look at, in Postgres. */
import { z } from 'zod'
import { answer, callSql, type Database } from '../db.ts'

export type UploadDatabase = ReturnType<typeof createUploadDatabase>

/** Uploads that nobody else looks at meanwhile. */
const uploads = z.array(
  z.object({
    objectId: z.string(),
    bucketId: z.string(),
    name: z.string(),
    version: z.string().nullable(),
    /** The type that the upload declared, as `image/png`. */
    contentType: z.string(),
    /** Found out earlier; its file is still to be removed. */
    rejected: z.boolean(),
  }),
)
export type Upload = z.infer<typeof uploads>[number]

export function createUploadDatabase(sql: Database) {
  return {
    claim: (max: number) =>
      callSql(
        sql`
          select object_id as "objectId", bucket_id as "bucketId", name, version, content_type as "contentType", rejected
          from private.claim_uploads_to_check(${max})`,
        uploads,
      ),
    /** False when the file was replaced or removed meanwhile. */
    finish: ({ objectId, version }: Upload, verdict: 'ok' | 'rejected' | 'removed', foundType: string | null) =>
      callSql(
        sql`
          select private.finish_upload_check(${objectId}::uuid, ${version}::text, ${verdict}::text, ${foundType}::text) as answer`,
        answer(z.boolean()),
      ),
  }
}
