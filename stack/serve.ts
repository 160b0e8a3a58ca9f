/** The HTTP servers of the stack, one for each port. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { createAdaptorServer } from '@hono/node-server'
import { StackError } from './config.ts'

/** `incoming` is the connection that a request came on. */
type Bindings = { incoming?: { socket: { remoteAddress?: string | undefined; destroy(): unknown } } }
export type Fetch = (request: Request, bindings: Bindings) => Response | Promise<Response>
export type Upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => void

export const sayPortTaken = (name: string, port: number) => (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EADDRINUSE') throw error
  throw new StackError(
    `Port ${port} (${name}) is taken. Stop what uses it, or set PALISADE_PORT to another free range of ports.`,
  )
}

/** Throws when a port is taken. */
export async function checkPort(name: string, port: number): Promise<void> {
  const close = await serve(name, port, () => new Response())
  await close()
}

/** Listens on this machine alone; answers how to stop. */
export function serve(name: string, port: number, fetch: Fetch, upgrade?: Upgrade): Promise<() => Promise<void>> {
  const server = createAdaptorServer({ fetch, hostname: '127.0.0.1' })
  server.on('request', readOnAfterAnswer)
  if (upgrade)
    server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      // From here on nobody else hears that a client hung up.
      socket.on('error', () => socket.destroy())
      upgrade(request, socket, head)
    })
  return new Promise<() => Promise<void>>((resolve, reject) => {
    // Of a server that listens, an error is one connection's: it must not end the others.
    server.on('error', reject)
    server.listen(port, '127.0.0.1', () => resolve(() => closeServer(server)))
  }).catch(sayPortTaken(name, port))
}

/**
 * A body that was refused before its end has to be read on, or the caller's connection stalls. The adaptor does so, but the
 * stream that the body was read as pauses it again, and the adaptor cuts the connection half a second later, under the caller's
 * next request. So that stream is taken off.
 */
function readOnAfterAnswer(incoming: IncomingMessage, outgoing: ServerResponse): void {
  outgoing.once('close', () => {
    if (!incoming.readableEnded) incoming.removeAllListeners('data')
  })
}

function closeServer(server: ReturnType<typeof createAdaptorServer>): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    if ('closeAllConnections' in server) server.closeAllConnections()
  })
}
