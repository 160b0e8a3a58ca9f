/**
 * Reads a body. What is too large is never in memory as a whole: a Content-Length is what HTTP then delivers, and without one
 * the bytes are counted while they come.
 */

export class BodyTooLarge extends Error {}

export async function readBody(source: Request | Response, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const announced = Number(source.headers.get('content-length') ?? Number.NaN)
  if (announced > limitBytes) throw new BodyTooLarge()
  if (announced > 0) return new Uint8Array(await source.arrayBuffer())
  const reader = source.body?.getReader()
  const chunks: Uint8Array[] = []
  let size = 0
  try {
    while (reader) {
      const { done, value } = await reader.read()
      if (done) break
      size += value.byteLength
      if (size > limitBytes) throw new BodyTooLarge()
      chunks.push(value)
    }
    return concatBytes(chunks, size)
  } finally {
    reader?.cancel().catch(() => {})
  }
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
