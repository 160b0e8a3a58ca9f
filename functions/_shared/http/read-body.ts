/** Reads a body and counts while reading: what is too large is never in memory as a whole, whatever Content-Length says. */

export class BodyTooLarge extends Error {}

export async function readBody(source: Request | Response, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  if (Number(source.headers.get('content-length') ?? 0) > limitBytes) {
    await source.body?.cancel().catch(() => {})
    throw new BodyTooLarge()
  }
  const chunks: Uint8Array[] = []
  let size = 0
  // Leaving the loop early cancels the stream.
  for await (const chunk of source.body ?? []) {
    size += chunk.byteLength
    if (size > limitBytes) throw new BodyTooLarge()
    chunks.push(chunk)
  }
  return concatBytes(chunks, size)
}

export function concatBytes(chunks: readonly Uint8Array[], size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    bytes.set(chunk, at)
    at += chunk.byteLength
  }
  return bytes
}
