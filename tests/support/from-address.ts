/** fetch from another address of this machine: every address in 127.0.0.0/8 is ours, so tests can come from many networks. */
import { type IncomingMessage, request } from 'node:http'

export function fetchFrom(localAddress: string): typeof fetch {
  return async (input, init) => {
    const outgoing = new Request(input, init)
    const body = Buffer.from(await outgoing.arrayBuffer())
    return new Promise<Response>((resolve, reject) => {
      const sent = request(
        outgoing.url,
        { method: outgoing.method, headers: Object.fromEntries(outgoing.headers), localAddress },
        (answer) => {
          const headers = new Headers()
          for (const [name, value] of Object.entries(answer.headers)) headers.set(name, String(value))
          const status = answer.statusCode ?? 0
          const isEmpty = status === 204 || status === 304
          resolve(new Response(isEmpty ? null : streamOf(answer), { status, headers }))
        },
      )
      sent.once('error', reject)
      sent.end(body)
    })
  }
}

function streamOf(answer: IncomingMessage): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      answer.on('data', (chunk: Buffer) => controller.enqueue(new Uint8Array(chunk)))
      answer.once('end', () => controller.close())
      answer.once('error', (error) => controller.error(error))
    },
  })
}
