/** fetch from another address of this machine: every address in 127.0.0.0/8 is ours, so tests can come from many networks. */
import { request } from 'node:http'
import { Readable } from 'node:stream'

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
          resolve(new Response(isEmpty ? null : (Readable.toWeb(answer) as BodyInit), { status, headers }))
        },
      )
      sent.once('error', reject)
      sent.end(body)
    })
  }
}
