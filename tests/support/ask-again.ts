/** Run by Deno in ai-transport.test.ts: how often a provider sees questions whose kept connection breaks, by its hand or by ours. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import process from 'node:process'
import { askByNode } from '../../functions/_shared/ai/ask-provider.ts'

const ask = askByNode()

async function timesSeen(breaks: (close: () => void, hangUp: () => void) => void): Promise<number> {
  const gone = new AbortController()
  let seen = 0
  const server = createServer((request, response) => {
    seen += 1
    if (seen === 1) response.end('{}')
    else
      breaks(
        () => request.socket.destroy(),
        () => gone.abort(),
      )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  const url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/`
  const first = await ask({ url, headers: {}, body: '{}' }, new AbortController().signal)
  await new Promise((end) => first.body.listen(() => {}, end))

  await ask({ url, headers: {}, body: '{}' }, gone.signal).catch(() => {})
  // Deno would ask again at once.
  await new Promise((done) => setTimeout(done, 50))
  server.closeAllConnections()
  server.close()
  return seen
}

console.log(JSON.stringify([await timesSeen((close) => close()), await timesSeen((_close, hangUp) => hangUp())]))
process.exit()
