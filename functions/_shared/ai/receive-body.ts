/**
 * The body of a call. A large one is read for callers whose plan has a model that takes pictures, sounds or files, and a few at a time in
 * one process: its memory is small, and nobody may fill it for the others.
 */
import type { Caller } from '../auth/identify-caller.ts'
import { AppError } from '../errors.ts'
import { BodyLost, BodyTooLarge, BodyTooSlow, readBody, tooSlow } from '../http/read-body.ts'
import type { Place } from './body-room.ts'
import { modelIn } from './scan-model.ts'
import { ledgerCaller, noteKey, turnAway } from './who-calls.ts'
import type { AiWorld } from './world.ts'

type Body = {
  bytes: Uint8Array<ArrayBuffer>
  /** Of a large one the model that it was let in for. */
  model?: string | undefined
  /** The body is no longer in memory: the next one may come. `isPaid` when it became a call. */
  leave(isPaid: boolean): void
}

const limitBytes = 1_000_000
const largeLimitBytes = 20_000_000

/** Not a byte is read before the caller is identified. */
export async function receiveBody(request: Request, caller: Caller, world: AiWorld): Promise<Body> {
  const length = lengthOf(request.headers)
  let place: Place | undefined
  let requireLarge: ((model: string | undefined) => void) | undefined
  const letIn = async (start: Uint8Array) => {
    // Whoever is refused takes no place from the others, and a caller with many keys is one.
    const large = await largeFor(request.headers, caller, world)
    requireLarge = large.requireModel
    const model = modelIn(start)
    if (model !== undefined) requireLarge(model)
    const entered = await world.room.enter(large.userId, length, start.byteLength)
    place = entered
    return { limitBytes: largeLimitBytes, grow: entered.grow }
  }
  try {
    if (length > largeLimitBytes) throw new BodyTooLarge()
    const bytes = await readBody(request, { limitBytes, letIn, wheel: world.wheel })
    place?.end()
    const model = requireLarge && modelIn(bytes)
    requireLarge?.(model)
    return { bytes, model, leave: (isPaid) => place?.leave(isPaid) }
  } catch (cause) {
    place?.leave(false)
    if (cause instanceof BodyTooLarge) throw new AppError('request_too_large', { message: tooLarge })
    if (cause instanceof BodyTooSlow) throw tooSlow(cause)
    if (cause instanceof BodyLost) throw new AppError('client_closed_request', { cause: cause.cause })
    throw cause
  }
}

const tooLarge =
  'The body is larger than 1 MB, or than 20 MB for a model that takes pictures, sounds or files and is in your plan.'

/** A body that does not say how long it is may be as long as any. */
function lengthOf(headers: Headers): number {
  const length = Number(headers.get('content-length') ?? 0)
  return Number.isSafeInteger(length) && length > limitBytes ? length : largeLimitBytes
}

/** Asks the ledger who the caller is, and for which models a large body is let in: all others are refused. */
async function largeFor(headers: Headers, caller: Caller, world: AiWorld) {
  const asking = ledgerCaller(caller, headers, new Uint8Array())
  // Its signature is checked in the database, where such a body does not belong.
  if ('signature' in asking && asking.signature)
    throw new AppError('request_too_large', { message: 'A signed body has at most 1 MB.' })
  const list = await world.ledger.listModels(asking)
  if (!list.allowed) throw await turnAway(list, asking, world)
  noteKey(asking, world)
  const taking = await world.ledger.takingMedia(list.models.map(({ id }) => id))
  if (taking.size === 0) throw new BodyTooLarge()
  const requireModel = (model: string | undefined) => {
    if (model === undefined || !taking.has(model)) throw new BodyTooLarge()
  }
  return { userId: list.user_id, requireModel }
}
