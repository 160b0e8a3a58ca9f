/** Reads a body and counts while reading: what is too large is never in memory as a whole, whatever Content-Length says. */
import type { z } from 'zod'
import { AppError } from '../errors.ts'
import { createWheel, type Wheel } from '../wheel.ts'

export class BodyTooLarge extends Error {}
/** The body broke off: whoever sent it has gone. */
export class BodyLost extends Error {}
/** Whoever sends so slowly keeps a connection, and memory, that others need. */
export class BodyTooSlow extends Error {}

const isLost = (cause: unknown) => {
  throw new BodyLost('the body broke off', { cause })
}

/** A body that is larger than the limit and that was let in: how large it may be instead. */
type LetIn = {
  limitBytes: number
  /** So much has come of it; a promise when there is no room for it so far. */
  grow(receivedBytes: number): Promise<void> | undefined
}

type Reading = {
  limitBytes: number
  /** Asked once, with what came of a body that is too large. */
  letIn?: ((start: Uint8Array) => Promise<LetIn>) | undefined
  wheel?: Wheel
}

/** For the doors that have no wheel of their own. */
const ownWheel = createWheel()

export async function readBody(source: Request, reading: Reading): Promise<Uint8Array<ArrayBuffer>> {
  const { letIn, wheel = ownWheel } = reading
  let { limitBytes } = reading
  const reader = source.body?.getReader()
  const cancel = () => void reader?.cancel().catch(() => {})
  const pace = keepPace(wheel, cancel)
  const chunks: Uint8Array[] = []
  let [size, grown]: [number, LetIn | undefined] = [0, undefined]
  try {
    if (!letIn && Number(source.headers.get('content-length') ?? 0) > limitBytes) throw new BodyTooLarge()
    while (reader) {
      const { done, value } = await reader.read().catch(isLost)
      if (pace.isLost()) throw new BodyTooSlow('the body came too slowly')
      if (done) break
      size += value.byteLength
      chunks.push(value)
      pace.note(value.byteLength)
      if (size > limitBytes && letIn && !grown) {
        grown = await pace.pauseFor(letIn(concatBytes(chunks, size)))
        limitBytes = grown.limitBytes
      }
      if (size > limitBytes) throw new BodyTooLarge()
      const waiting = grown?.grow(size)
      if (waiting) await pace.pauseFor(waiting)
    }
    return concatBytes(chunks, size)
  } finally {
    pace.end()
    cancel()
  }
}

/**
 * No body takes longer. In each stretch of ten seconds come 160 kB, which the slowest of mobile networks carry, and an eighth of what came
 * before: whoever sends at a steady rate always sends a sixth, and whoever has filled much memory and then dawdles does not.
 */
const [longestMs, stretchMs, leastBytes, leastPart] = [60_000, 10_000, 160_000, 1 / 8]

/** `onLost` is called when too little comes. What is waited for on our side is not the sender's time. */
function keepPace(wheel: Wheel, onLost: () => void) {
  const now = () => performance.now()
  let [endsAt, stretchEndsAt] = [now() + longestMs, now() + stretchMs]
  let [before, came] = [0, 0]
  let [isPaused, isLost] = [false, false]
  const leaveWheel = wheel((at) => {
    if (isPaused || isLost || (at < stretchEndsAt && at < endsAt)) return
    if (at >= endsAt || came < Math.max(leastBytes, before * leastPart)) {
      isLost = true
      leaveWheel()
      onLost()
    }
    stretchEndsAt = at + stretchMs
    before += came
    came = 0
  })
  return {
    isLost: () => isLost,
    note(bytes: number): void {
      came += bytes
    },
    async pauseFor<T>(work: Promise<T>): Promise<T> {
      const since = now()
      isPaused = true
      try {
        return await work
      } finally {
        isPaused = false
        endsAt += now() - since
        stretchEndsAt += now() - since
      }
    },
    end: leaveWheel,
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
  if (!isSmall || source.headers.has('transfer-encoding')) return readBody(source, { limitBytes })
  const late = Promise.withResolvers<never>()
  const pace = keepPace(ownWheel, () => late.reject(new BodyTooSlow('the body came too slowly')))
  try {
    return new Uint8Array(await Promise.race([source.arrayBuffer(), late.promise]))
  } finally {
    pace.end()
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

/** What such a caller is told, wherever. */
export const tooSlow = (cause: BodyTooSlow) =>
  new AppError('invalid_request_error', {
    message: 'The body came too slowly: send at least 16 kB a second, and all of it within a minute.',
    cause,
  })

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
    return JSON.parse(
      new TextDecoder('utf-8', { fatal: true }).decode(await readBody(request, { limitBytes: jsonLimitBytes })),
    )
  } catch (cause) {
    if (cause instanceof BodyTooLarge)
      throw new AppError('request_too_large', { message: 'The body is larger than 16 kB.' })
    if (cause instanceof BodyTooSlow) throw tooSlow(cause)
    // Without the cause: a parser's message repeats a part of the text.
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.' })
  }
}
