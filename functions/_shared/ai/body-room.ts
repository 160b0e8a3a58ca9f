/** Who may have a large body in memory, and who waits for it. */
import { AppError } from '../errors.ts'
import type { Wheel } from './watch-call.ts'

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
