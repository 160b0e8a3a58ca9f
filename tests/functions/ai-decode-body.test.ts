/** Compressed bodies, and those that only say so, in pieces of any size. */
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { inClear } from '../../functions/_shared/ai/decode-body.ts'

const bytesOf = (given: Buffer | string) => new Uint8Array(Buffer.from(given))

/** What comes out of a body that comes in pieces, and whether it came to an end. */
async function decoded(coding: string, pieces: Uint8Array<ArrayBuffer>[]) {
  const source = {
    listen(take: (bytes: Uint8Array<ArrayBuffer>) => void, end: (cause?: unknown) => void) {
      for (const piece of pieces) take(piece)
      end()
    },
    pause() {},
    resume() {},
    cancel() {},
  }
  const body = await inClear(source, coding)
  const got: Uint8Array[] = []
  const cause = await new Promise((end) => body.listen((bytes) => got.push(bytes), end))
  return { text: Buffer.concat(got).toString(), cause }
}

/** The first pieces have one byte each, behind an empty one. */
function inPieces(whole: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  const first = Array.from({ length: 8 }, (_, at) => whole.subarray(at, at + 1))
  return [whole.subarray(0, 0), ...first, whole.subarray(8)]
}

const text = '{"said":"Příliš žluťoučký"}'

test.each<[string, (text: string) => Buffer]>([
  ['gzip', gzipSync],
  ['deflate', deflateSync],
  ['deflate', deflateRawSync],
  ['br', brotliCompressSync],
])('a body that is compressed as %s comes out, byte by byte too', async (coding, compress) => {
  expect(await decoded(coding, inPieces(bytesOf(compress(text))))).toEqual({ text, cause: undefined })
})

const texts = [text, '[{"a":1}]', 'data: {"id":1}\n\n', ': wait\n\ndata: 1\n\n', 'event: error\n\n', '  <html></html>']

test.each(['gzip', 'deflate', 'br'].flatMap((coding) => texts.map((said) => [coding, said] as const)))(
  'a header that wrongly says %s spoils nothing of %j, byte by byte too',
  async (coding, said) => {
    expect(await decoded(coding, inPieces(bytesOf(said)))).toEqual({ text: said, cause: undefined })
  },
)

test.each(['', '{', '{"', 'data'])('a body that ends after %j is that', async (said) => {
  expect(await decoded('gzip', inPieces(bytesOf(said)))).toEqual({ text: said, cause: undefined })
})
