/** Moves old months of the audit log to storage: write, read back, compare, note, and only then drop. */
import type { ArchivePart, JobsWorld } from './world.ts'

const budgetMs = 45_000

/**
 * Can die anywhere and be started again, also twice at once: what is done is noted in SQL, files are named by their
 * content and never overwritten, and the database drops a month only when its noted parts hold the whole chain.
 */
export async function archiveAudit(world: JobsWorld): Promise<{ parts: number; dropped: string[] }> {
  const until = world.now() + budgetMs
  const result = { parts: 0, dropped: [] as string[] }
  while (world.now() < until) {
    const part = await world.nextArchive()
    if (!part) break
    if (part.is_complete) {
      if (await world.dropMonth(part.month)) result.dropped.push(part.month)
    } else {
      await archivePart(part, world)
      result.parts += 1
    }
  }
  return result
}

async function archivePart(part: ArchivePart, world: JobsWorld): Promise<void> {
  const lines = await world.readEntries(part)
  const wanted = part.last_seq - part.first_seq + 1
  if (lines.length !== wanted) throw new Error(`${part.month}: ${lines.length} entries where ${wanted} should be`)
  const bytes = await gzip(`${lines.join('\n')}\n`)
  const sha256 = await hexDigest(bytes)
  const path = `${part.month.slice(0, 7)}/${String(part.part).padStart(5, '0')}-${sha256.slice(0, 16)}.ndjson.gz`
  await world.upload(path, bytes)
  const stored = await hexDigest(await world.download(path))
  if (stored !== sha256) throw new Error(`${path} is not in storage as it was written`)
  await world.recordArchive(part, sha256, path)
}

async function gzip(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream('gzip'))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

async function hexDigest(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
