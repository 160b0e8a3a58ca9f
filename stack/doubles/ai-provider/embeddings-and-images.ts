import { createHash } from 'node:crypto'
import { crc32, deflateSync } from 'node:zlib'
import { z } from 'zod'
import type { Behaviours } from './behaviours.ts'
import { countTokens } from './chat-answer.ts'

export const embeddingsRequest = z.looseObject({
  model: z.string(),
  input: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(2048)]),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  dimensions: z.int().min(1).max(4096).nullish(),
})

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** A bag of words, hashed and of length 1: texts that share words are near each other. */
function vectorOf(text: string, dimensions: number): Float32Array {
  const vector = new Float32Array(dimensions)
  for (const word of text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [text]) {
    const slot = digest(word).readUInt32BE() % dimensions
    vector[slot] = (vector[slot] ?? 0) + 1
  }
  const length = Math.hypot(...vector)
  return vector.map((value) => value / length)
}

export function embeddings(request: z.infer<typeof embeddingsRequest>, wants: Behaviours): object {
  const inputs = [request.input].flat()
  const tokens = wants.has('zero-usage') ? 0 : inputs.reduce((sum, text) => sum + countTokens(text), 0)
  const data = inputs.map((text, index) => {
    const vector = vectorOf(text, request.dimensions ?? 256)
    const embedding = request.encoding_format === 'base64' ? Buffer.from(vector.buffer).toString('base64') : [...vector]
    return { object: 'embedding', index, embedding }
  })
  const usage = { prompt_tokens: tokens, total_tokens: tokens }
  return { object: 'list', data, model: request.model, ...(!wants.has('no-usage') && { usage }) }
}

export const imagesRequest = z.looseObject({
  model: z.string(),
  prompt: z.string().min(1),
  n: z.int().min(1).max(10).nullish(),
  size: z.enum(['auto', '256x256', '512x512', '1024x1024', '1536x1024', '1024x1536']).nullish(),
  response_format: z.enum(['b64_json', 'url']).nullish(),
})

function pngChunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type), data])
  const frame = Buffer.alloc(8)
  frame.writeUInt32BE(data.length)
  frame.writeUInt32BE(crc32(body), 4)
  return Buffer.concat([frame.subarray(0, 4), body, frame.subarray(4)])
}

/** A plain PNG in a colour that follows from the prompt. */
function png(width: number, height: number, colour: Buffer): Buffer {
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0]) // 8 bits per channel, RGB.
  header.writeUInt32BE(width)
  header.writeUInt32BE(height, 4)
  const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(width * 3, colour)])
  const pixels = deflateSync(Buffer.alloc(row.length * height, row))
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])
  return Buffer.concat([
    signature,
    pngChunk('IHDR', header),
    pngChunk('IDAT', pixels),
    pngChunk('IEND', Buffer.alloc(0)),
  ])
}

/** Output is counted as 1,000 tokens an image. */
export function images(request: z.infer<typeof imagesRequest>, wants: Behaviours, now: number): object {
  const n = request.n ?? 1
  const [width = 1024, height = 1024] = /^\d/.test(request.size ?? '')
    ? (request.size ?? '').split('x').map(Number)
    : []
  const base64 = png(width, height, digest(request.prompt).subarray(0, 3)).toString('base64')
  const image = request.response_format === 'url' ? { url: `data:image/png;base64,${base64}` } : { b64_json: base64 }
  const [input, output] = wants.has('zero-usage') ? [0, 0] : [countTokens(request.prompt), n * 1000]
  const usage = {
    input_tokens: input,
    output_tokens: output,
    total_tokens: input + output,
    input_tokens_details: { text_tokens: input, image_tokens: 0 },
  }
  const data = Array.from({ length: n }, () => image)
  return { created: Math.floor(now / 1000), data, ...(!wants.has('no-usage') && { usage }) }
}
