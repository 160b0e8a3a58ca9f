/**
 * The body of a call. A large one is read for callers whose plan has a model that takes pictures, sounds or files, and a few at a time in
 * one process: its memory is small, and nobody may fill it for the others.
 */
import type { Caller } from '../auth/identify-caller.ts'
import { AppError } from '../errors.ts'
import { BodyTooLarge, readBody } from '../http/read-body.ts'
import { modelIn } from './scan-model.ts'
import { refusal } from './tell-decision.ts'
import type { Wheel } from './watch-call.ts'
import { ledgerCaller } from './who-calls.ts'
import type { AiWorld } from './world.ts'

type Body = {
  bytes: Uint8Array<ArrayBuffer>
  /** Of a large one the model that it was let in for. */
  model?: string | undefined
  /** The body is no longer in memory: the next one may come. */
  leave(): void
}

const limitBytes = 1_000_000
const largeLimitBytes = 20_000_000
const uploadMs = 60_000

/** Not a byte is read before the caller is identified. */
export async function receiveBody(request: Request, caller: Caller, world: AiWorld): Promise<Body> {
  const length = lengthOf(request.headers)
  const upload = new AbortController()
  let [leave, leaveWheel] = [() => {}, () => {}]
  let requireLarge: ((model: string | undefined) => void) | undefined
  const letIn = async (start: Uint8Array) => {
    leave = await world.room.enter(ownerOf(caller), length)
    leaveWheel = abortLater(upload, world.wheel)
    requireLarge = await modelsFor(request.headers, caller, world)
    const model = modelIn(start)
    if (model !== undefined) requireLarge(model)
    return { limitBytes: largeLimitBytes, signal: upload.signal }
  }
  try {
    if (length > largeLimitBytes) throw new BodyTooLarge()
    const bytes = await readBody(request, limitBytes, letIn)
    const model = requireLarge && modelIn(bytes)
    requireLarge?.(model)
    return { bytes, model, leave }
  } catch (cause) {
    leave()
    if (cause instanceof BodyTooLarge) throw new AppError('request_too_large', { message: tooLarge })
    if (cause instanceof AppError) throw cause
    throw new AppError('client_closed_request', { cause })
  } finally {
    leaveWheel()
  }
}

const tooLarge =
  'The body is larger than 1 MB, or than 20 MB for a model that takes pictures, sounds or files and is in your plan.'

/** A body that does not say how long it is may be as long as any. */
function lengthOf(headers: Headers): number {
  const length = Number(headers.get('content-length') ?? 0)
  return Number.isSafeInteger(length) && length > limitBytes ? length : largeLimitBytes
}

const ownerOf = (caller: Caller) => (caller.kind === 'user' ? caller.userId : caller.keyHash)

/** Asks the ledger who the caller is; what it answers refuses every model that may not have large bodies. */
async function modelsFor(headers: Headers, caller: Caller, world: AiWorld) {
  const asking = ledgerCaller(caller, headers, new Uint8Array())
  // Its signature is checked in the database, where such a body does not belong.
  if ('signature' in asking && asking.signature)
    throw new AppError('request_too_large', { message: 'A signed body has at most 1 MB.' })
  const list = await world.ledger.listModels(asking)
  if (!list.allowed) throw refusal(list)
  const taking = await world.ledger.takingMedia(list.models.map(({ id }) => id))
  if (taking.size === 0) throw new BodyTooLarge()
  return (model: string | undefined) => {
    if (model === undefined || !taking.has(model)) throw new BodyTooLarge()
  }
}

/** Whoever is slow keeps a place from the others. */
function abortLater(upload: AbortController, wheel: Wheel): () => void {
  const until = performance.now() + uploadMs
  return wheel((now) => {
    if (now >= until)
      upload.abort(new AppError('invalid_request_error', { message: 'The body did not come within a minute.' }))
  })
}

type Waiting = { owner: string; bytes: number; until: number; enter(): void; refuse(): void }

const patienceMs = 5_000
const mostWaiting = 64

export type Room = ReturnType<typeof createRoom>

/**
 * Room for large bodies: so many bytes, one of each owner. Who finds none waits a while, in the order of coming, one of each owner again,
 * so that nobody keeps the others out.
 */
export function createRoom(wheel: Wheel, capacityBytes: number) {
  let freeBytes = capacityBytes
  const inside = new Set<string>()
  let waiting: Waiting[] = []

  const hasPlace = (owner: string, bytes: number) => bytes <= freeBytes && !inside.has(owner)
  const take = (owner: string, bytes: number) => {
    inside.add(owner)
    freeBytes -= bytes
    let isIn = true
    return () => {
      if (!isIn) return
      isIn = false
      inside.delete(owner)
      freeBytes += bytes
      letNextIn()
    }
  }
  /** A large one at the front waits for all that is free, so that smaller ones do not pass it for ever. */
  const letNextIn = () => {
    for (const next of [...waiting]) {
      if (inside.has(next.owner)) continue
      if (next.bytes > freeBytes) return
      waiting = waiting.filter((one) => one !== next)
      next.enter()
    }
  }
  const look = (now: number) => {
    for (const one of waiting) if (now >= one.until) one.refuse()
    letNextIn()
    if (waiting.length === 0) leaveWheel()
  }
  let leaveWheel = () => {}

  return {
    /** Throws when there is no place in time. */
    async enter(owner: string, bytes: number): Promise<() => void> {
      if (waiting.length === 0 && hasPlace(owner, bytes)) return take(owner, bytes)
      if (waiting.length >= mostWaiting || waiting.some((one) => one.owner === owner)) throw isFull()
      if (waiting.length === 0) leaveWheel = wheel(look)
      return new Promise((enter, refuse) => {
        const one: Waiting = {
          ...{ owner, bytes, until: performance.now() + patienceMs },
          enter: () => enter(take(owner, bytes)),
          refuse: () => {
            waiting = waiting.filter((other) => other !== one)
            refuse(isFull())
          },
        }
        waiting.push(one)
        letNextIn()
      })
    },
  }
}

const isFull = () =>
  new AppError('concurrency_limit', { message: 'Too many large requests are on their way.', retryAfterS: 2 })
