/** For work that a person waits for: whoever sees nothing for some seconds believes that nothing happens. */

const longMs = 3_000

/** `tell` is called once, unless the work is done before. */
export async function tellWhenLong<T>(work: Promise<T>, tell: () => void): Promise<T> {
  const timer = setTimeout(tell, longMs)
  try {
    return await work
  } finally {
    clearTimeout(timer)
  }
}
