/** Looks at the bytes of new uploads, which Postgres cannot see: what is not of the type it claims to be is removed. */
import { fileTypeFromBuffer } from 'file-type'

/** An upload that private.claim_uploads_to_check handed out. */
export type Upload = {
  objectId: string
  bucketId: string
  name: string
  version: string | null
  /** The type that the upload declared, as `image/png`. */
  contentType: string
  /** Found out earlier; its file is still to be removed. */
  rejected: boolean
}

export type UploadWorld = {
  claim(max: number): Promise<Upload[]>
  /** The first bytes of a file, at least 4100 when it has as many. */
  readHead(upload: Upload): Promise<Uint8Array>
  remove(upload: Upload): Promise<void>
  /** False when the file was replaced or removed meanwhile. */
  finish(upload: Upload, verdict: 'ok' | 'rejected' | 'removed', foundType: string | null): Promise<boolean>
  log(line: Record<string, unknown>): void
}

export type UploadReport = { ok: number; rejected: number; failed: number }

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
  for (const upload of await world.claim(max)) {
    try {
      report[await checkUpload(world, upload)] += 1
    } catch (error) {
      report.failed += 1
      world.log({ event: 'upload_check_failed', object_id: upload.objectId, error: String(error) })
    }
  }
  return report
}

async function checkUpload(world: UploadWorld, upload: Upload): Promise<'ok' | 'rejected'> {
  if (!upload.rejected) {
    const found = await detectType(await world.readHead(upload))
    if (found === upload.contentType && found === declaredByName(upload.name)) {
      await world.finish(upload, 'ok', found)
      return 'ok'
    }
    // Noted first: should this process end here, whoever is next removes the file.
    if (!(await world.finish(upload, 'rejected', found))) return 'rejected'
  }
  await world.remove(upload)
  await world.finish(upload, 'removed', null)
  return 'rejected'
}

/** The type that the bytes themselves show; null when they show none. An animated PNG is a PNG. */
async function detectType(head: Uint8Array): Promise<string | null> {
  const found = await fileTypeFromBuffer(head)
  return found?.mime === 'image/apng' ? 'image/png' : (found?.mime ?? null)
}

const declaredByName = (name: string) => typesByExtension[/\.([^./]+)$/.exec(name)?.[1]?.toLowerCase() ?? '']
