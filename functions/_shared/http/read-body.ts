/** Reads a body and counts while reading: what is too large is never in memory as a whole, whatever Content-Length says. */
import type { z } from 'zod'
import { AppError } from '../errors.ts'

export class BodyTooLarge extends Error {}
/** The body broke off: whoever sent it has gone. */
export class BodyLost extends Error {}

const isLost = (cause: unknown) => {
  throw new BodyLost('the body broke off', { cause })
}

/** Asked once, with what came of a body that is too large: how large it may be instead, and until when. */
type LetIn = (start: Uint8Array) => Promise<{ limitBytes: number; signal: AbortSignal }>

export async function readBody(source: Request, limitBytes: number, letIn?: LetIn): Promise<Uint8Array<ArrayBuffer>> {
  const reader = source.body?.getReader()
  const chunks: Uint8Array[] = []
  let [size, limit] = [0, limitBytes]
  let signal: AbortSignal | undefined
  try {
    if (!letIn && Number(source.headers.get('content-length') ?? 0) > limit) throw new BodyTooLarge()
    while (reader) {
      const { done, value } = await reader.read().catch(isLost)
      if (signal?.aborted) throw signal.reason
      if (done) break
      size += value.byteLength
      chunks.push(value)
      if (size > limit && letIn && !signal) {
        const grown = await letIn(concatBytes(chunks, size))
        limit = grown.limitBytes
        signal = grown.signal
        signal.addEventListener('abort', () => reader.cancel().catch(() => {}), { once: true })
      }
      if (size > limit) throw new BodyTooLarge()
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

const jsonLimitBytes = 16_000

/** The door for small JSON bodies. Refusals name the field and never repeat what was in it. */
export async function readJson<Schema extends z.ZodType>(request: Request, schema: Schema): Promise<z.infer<Schema>> {
  const { data, error } = schema.safeParse(await parseBody(request))
  if (!error) return data
  const [issue] = error.issues
  const param = issue?.code === 'unrecognized_keys' ? issue.keys[0] : issue?.path.join('.')
  throw new AppError('invalid_request_error', { message: `${param || 'The body'}: ${whyOf(issue)}`, param })
}

/** A schema's own words are said where it has some: they are ours, and zod's default would be "Invalid input". */
function whyOf(issue: z.core.$ZodIssue | undefined): string {
  if (issue?.code === 'unrecognized_keys') return 'is not a field here.'
  return issue?.code === 'custom' && issue.message !== 'Invalid input' ? issue.message : 'is missing or not valid.'
}

async function parseBody(request: Request): Promise<unknown> {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await readBody(request, jsonLimitBytes)))
  } catch (cause) {
    if (cause instanceof BodyTooLarge)
      throw new AppError('request_too_large', { message: 'The body is larger than 16 kB.' })
    // Without the cause: a parser's message repeats a part of the text.
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.' })
  }
}
