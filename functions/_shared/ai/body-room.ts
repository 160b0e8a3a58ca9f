/** Who may have a large body in memory, and who waits for it. */
import { AppError } from '../errors.ts'
import { remember } from '../remember.ts'
import type { Wheel } from '../wheel.ts'

/** A body in the room. What is taken is kept for it: what came, and what is to come soon. */
type Inside = { owner: string; since: number; firstBytes: number; receivedBytes: number; takenBytes: number }
type Waiting = { owner: string; bytes: number; until: number; isInside: boolean; enter(): void; refuse(): void }

export type Place = {
  /** So much has come; a promise when there is no room for it so far, which throws when there is none in time. */
  grow(receivedBytes: number): Promise<void> | undefined
  /** All has come: what is kept beyond that is free. */
  end(): void
  /** The body is no longer in memory. `isPaid` when a call came of it, which its owner's limits count. */
  leave(isPaid: boolean): void
}

const patienceMs = 5_000
const mostWaiting = 64
/** Before, nobody can say how fast a body comes. */
const knownAfterMs = 1_000
const ownersKept = 10_000

export type Room = ReturnType<typeof createRoom>

/**
 * Room for large bodies: so many bytes, one of each owner. Who finds none waits a while, in the order of coming, one of each owner again,
 * so that nobody keeps the others out. Nor does who is slow: while somebody waits, a body has room for what came of it and for what comes
 * of it in the time that others wait, at the rate it had so far. And an owner whose body became no call stays away for as long as it was here.
 */
export function createRoom(wheel: Wheel, capacityBytes: number) {
  const room: State = {
    freeBytes: capacityBytes,
    inside: new Map(),
    waiting: [],
    restingUntil: new Map(),
    watch: () => wheel(look),
    leaveWheel: () => {},
  }
  const look = (now: number) => lookAt(room, now)
  return {
    /** Of a body that is to have so many bytes and of which some have come. Throws when there is no place in time. */
    enter: (owner: string, bytes: number, receivedBytes: number) => enter(room, owner, bytes, receivedBytes),
  }
}

type State = {
  freeBytes: number
  /** By owner. */
  inside: Map<string, Inside>
  /** Those inside before those who come. */
  waiting: Waiting[]
  restingUntil: Map<string, number>
  watch(): () => void
  leaveWheel(): void
}

async function enter(room: State, owner: string, bytes: number, receivedBytes: number): Promise<Place> {
  const restMs = (room.restingUntil.get(owner) ?? 0) - performance.now()
  if (restMs > 0) throw rests(restMs)
  const one: Inside = { owner, since: 0, firstBytes: receivedBytes, receivedBytes, takenBytes: bytes }
  const take = () => {
    one.since = performance.now()
    room.inside.set(owner, one)
    room.freeBytes -= bytes
  }
  const { waiting, inside, freeBytes } = room
  if (waiting.length === 0 && bytes <= freeBytes && !inside.has(owner)) take()
  else {
    const isAround = waiting.some((other) => other.owner === owner && !other.isInside)
    if (waiting.length >= mostWaiting || isAround) throw isFull()
    await wait(room, { owner, bytes, isInside: false, take, leave: () => {} })
  }
  return placeOf(room, one)
}

const placeOf = (room: State, one: Inside): Place => ({
  grow(receivedBytes) {
    one.receivedBytes = receivedBytes
    const missing = receivedBytes - one.takenBytes
    if (missing <= 0) return undefined
    const take = () => {
      one.takenBytes += missing
      room.freeBytes -= missing
    }
    const isBehind = room.waiting.some(({ isInside }) => isInside)
    if (missing > room.freeBytes || isBehind) {
      return wait(room, {
        owner: one.owner,
        bytes: missing,
        isInside: true,
        take,
        leave: () => leave(room, one, false),
      })
    }
    take()
  },
  end: () => giveBack(room, one, Math.max(0, one.takenBytes - one.receivedBytes)),
  leave: (isPaid) => leave(room, one, isPaid),
})

function leave(room: State, one: Inside, isPaid: boolean): void {
  if (room.inside.get(one.owner) !== one) return
  room.inside.delete(one.owner)
  const now = performance.now()
  room.restingUntil.delete(one.owner)
  if (!isPaid) remember(room.restingUntil, ownersKept, one.owner, now + (now - one.since))
  giveBack(room, one, one.takenBytes)
}

function giveBack(room: State, one: Inside, bytes: number): void {
  one.takenBytes -= bytes
  room.freeBytes += bytes
  letNextIn(room)
}

type Wish = Pick<Waiting, 'owner' | 'bytes' | 'isInside'> & { take(): void; leave(): void }

function wait(room: State, { take, leave, ...wish }: Wish): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  if (room.waiting.length === 0) room.leaveWheel = room.watch()
  const now = performance.now()
  const enter = () => {
    take()
    resolve()
  }
  const refuse = () => {
    room.waiting = room.waiting.filter((other) => other !== one)
    leave()
    reject(isFull())
  }
  const one: Waiting = { ...wish, until: now + patienceMs, enter, refuse }
  const firstOutside = room.waiting.findIndex(({ isInside }) => !isInside)
  room.waiting.splice(wish.isInside && firstOutside >= 0 ? firstOutside : room.waiting.length, 0, one)
  shrink(room, now)
  letNextIn(room)
  return promise
}

/** A large one at the front waits for all that is free, so that smaller ones do not pass it for ever. */
function letNextIn(room: State): void {
  for (const next of [...room.waiting]) {
    if (!next.isInside && room.inside.has(next.owner)) continue
    if (next.bytes > room.freeBytes) return
    room.waiting = room.waiting.filter((one) => one !== next)
    next.enter()
  }
}

function lookAt(room: State, now: number): void {
  shrink(room, now)
  letNextIn(room)
  // The youngest first: the room that they leave may be enough for the oldest.
  for (const one of [...room.waiting].reverse()) {
    if (now >= one.until && room.waiting.includes(one)) one.refuse()
    letNextIn(room)
  }
  if (room.waiting.length === 0) room.leaveWheel()
}

function shrink(room: State, now: number): void {
  for (const one of room.inside.values()) {
    const ms = now - one.since
    if (ms < knownAfterMs) continue
    const soonBytes = ((one.receivedBytes - one.firstBytes) / ms) * patienceMs
    const spareBytes = Math.max(0, one.takenBytes - Math.ceil(one.receivedBytes + soonBytes))
    one.takenBytes -= spareBytes
    room.freeBytes += spareBytes
  }
}

const isFull = () =>
  new AppError('concurrency_limit', { message: 'Too many large requests are on their way.', retryAfterS: 2 })

const rests = (ms: number) =>
  new AppError('concurrency_limit', {
    message:
      'A large request of this account became no call. The next one may come when as much time has passed as it took.',
    retryAfterS: Math.ceil(ms / 1000),
  })
