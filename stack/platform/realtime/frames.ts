/** Phoenix's frames as supabase-js writes and reads them: JSON objects (1.0.0), or JSON arrays and binary broadcasts (2.0.0). */
import { z } from 'zod'

export const versions = z.enum(['1.0.0', '2.0.0'])
export type Version = z.infer<typeof versions>

export type Frame = { joinRef: string | null; ref: string | null; topic: string; event: string; payload: unknown }

/** A broadcast's payload is JSON, or bytes, which only version 2.0.0 can carry. */
export type Broadcast = { type: 'broadcast'; event: string; payload?: unknown; meta?: Record<string, unknown> }

const reference = z.string().max(255).nullish()
/** Binary frames write lengths in bytes, and in one byte. */
export const shortText = z
  .string()
  .min(1)
  .refine((text) => Buffer.byteLength(text) <= 255)
const objectFrame = z.object({
  join_ref: reference,
  ref: reference,
  topic: shortText,
  event: shortText,
  payload: z.unknown(),
})
const arrayFrame = z.tuple([reference, reference, shortText, shortText, z.unknown()])

const kinds = { push: 3, broadcast: 4 }
const jsonEncoding = 1

/** A frame from outside, or undefined when it is none. */
export function decodeFrame(version: Version, data: Buffer, isBinary: boolean): Frame | undefined {
  try {
    if (isBinary) return version === '2.0.0' ? decodePush(data) : undefined
    const json: unknown = JSON.parse(data.toString())
    if (version === '1.0.0') {
      const { join_ref, ref, ...rest } = objectFrame.parse(json)
      return { joinRef: join_ref ?? null, ref: ref ?? null, ...rest }
    }
    const [joinRef, ref, topic, event, payload] = arrayFrame.parse(json)
    return { joinRef: joinRef ?? null, ref: ref ?? null, topic, event, payload }
  } catch {
    return undefined
  }
}

/** Kind, five lengths and the payload's encoding, a byte each; then the five texts; the rest is the payload. */
function decodePush(data: Buffer): Frame | undefined {
  if (data[0] !== kinds.push || data.length < 7) return undefined
  let offset = 7
  const texts = [...data.subarray(1, 6)].map((length) => {
    offset += length
    if (offset > data.length) throw new RangeError('a text is longer than the frame')
    return data.toString('utf8', offset - length, offset)
  })
  const [joinRef, ref, topic, event, metadata] = z
    .tuple([z.string(), z.string(), shortText, z.string(), z.string()])
    .parse(texts)
  const rest = data.subarray(offset)
  const payload: unknown = data[6] === jsonEncoding ? JSON.parse(rest.toString()) : rest
  const more = metadata === '' ? {} : z.record(z.string(), z.unknown()).parse(JSON.parse(metadata))
  return {
    joinRef: joinRef || null,
    ref: ref || null,
    topic,
    event: 'broadcast',
    payload: { ...more, type: 'broadcast', event, payload },
  }
}

export function encodeFrame(version: Version, { joinRef, ref, topic, event, payload }: Frame): string {
  return JSON.stringify(
    version === '1.0.0' ? { join_ref: joinRef, ref, topic, event, payload } : [joinRef, ref, topic, event, payload],
  )
}

/** Undefined when this version cannot carry it. */
export function encodeBroadcast(version: Version, topic: string, broadcast: Broadcast): string | Buffer | undefined {
  const { event, payload } = broadcast
  if (!(payload instanceof Uint8Array)) {
    return encodeFrame(version, { joinRef: null, ref: null, topic, event: 'broadcast', payload: broadcast })
  }
  if (version === '1.0.0') return undefined
  const texts = [Buffer.from(topic), Buffer.from(event)]
  const head = Buffer.from([kinds.broadcast, ...texts.map((text) => text.length), 0, 0])
  return Buffer.concat([head, ...texts, payload])
}
