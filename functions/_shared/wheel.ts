/** One timer of a process, for every deadline. */

type Look = (now: number) => void
/** Has something looked at four times a second; answers how that ends. `now` is that of performance. */
export type Wheel = (look: Look) => () => void

const turnMs = 250

/** One timer for everything that is on it, which stops when nothing is. So what is due is found up to a quarter of a second later. */
export function createWheel(): Wheel {
  const looks = new Set<Look>()
  let timer: ReturnType<typeof setInterval> | undefined
  const turn = () => {
    const now = performance.now()
    for (const look of looks) look(now)
    if (looks.size > 0) return
    clearInterval(timer)
    timer = undefined
  }
  return (look) => {
    looks.add(look)
    timer ??= setInterval(turn, turnMs)
    return () => void looks.delete(look)
  }
}
