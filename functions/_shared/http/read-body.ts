/** Reads a body and counts while reading: what is too large is never in memory as a whole, whatever Content-Length says. */

export class BodyTooLarge extends Error {}

export async function readBody(source: Request, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const reader = source.body?.getReader()
  const chunks: Uint8Array[] = []
  let size = 0
  try {
    if (Number(source.headers.get('content-length') ?? 0) > limitBytes) throw new BodyTooLarge()
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

const smallBytes = 65_536

/**
 * The same, and a small body whose length is known comes in one piece, which is faster. For functions behind a server that lets
 * through no more of a body than Content-Length says, as every HTTP server does.
 */
export async function readFramedBody(source: Request, limitBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const length = source.headers.get('content-length') ?? ''
  const isSmall = /^\d{1,5}$/.test(length) && Number(length) <= Math.min(smallBytes, limitBytes)
  if (!isSmall || source.headers.has('transfer-encoding')) return readBody(source, limitBytes)
  return new Uint8Array(await source.arrayBuffer())
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
