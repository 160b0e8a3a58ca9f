/** Ports for a stack of the tests' own. */
import { createServer } from 'node:net'

const above = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

/**
 * A port with the nine above it free, so that a developer's own stack can keep running. Below the range that the system
 * hands out to outgoing connections (32768 and up on Linux), where another process may take one at any moment.
 */
export async function freeRange(lowest = 10_000): Promise<number> {
  for (let port = lowest + Math.floor(Math.random() * 900) * 10; port < lowest + 10_000; port += 10) {
    const free = await Promise.all(above.map((offset) => isFree(port + offset)))
    if (free.every(Boolean)) return port
  }
  throw new Error('no free range of ports')
}

const isFree = (port: number) =>
  new Promise<boolean>((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
