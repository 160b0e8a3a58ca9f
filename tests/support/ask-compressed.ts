/** Run by Deno in ai-transport.test.ts: what is compressed although nobody asked, as both ways give it. */

import { Buffer } from 'node:buffer'
import { once } from 'node:events'
import { createServer } from 'node:http'
import process from 'node:process'
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib'
import { type AskProvider, askByFetch, askByNode } from '../../functions/_shared/ai/ask-provider.ts'

const codings = { gzip: gzipSync, deflate: deflateSync, br: brotliCompressSync }
const text = JSON.stringify({ said: 'Příliš žluťoučký 🛡'.repeat(1_000) })
const server = createServer((request, response) => {
  const [coding, compress] = Object.entries(codings).find(([name]) => `/${name}` === request.url) ?? [
    'identity',
    Buffer.from,
  ]
  response.writeHead(200, { 'content-encoding': coding }).end(compress(text))
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')
const address = server.address()
const base = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`

async function isClear(ask: AskProvider, coding: string): Promise<boolean> {
  const { body } = await ask(
    { url: `${base}/${coding}`, headers: { 'accept-encoding': 'identity' }, body: '{}' },
    new AbortController().signal,
  )
  const chunks: Uint8Array[] = []
  await new Promise((end) => body.listen((chunk) => void chunks.push(chunk), end))
  return Buffer.concat(chunks).toString() === text
}

const clear: Record<string, boolean[]> = { fetch: [], node: [] }
for (const coding of Object.keys(codings)) {
  clear.fetch?.push(await isClear(askByFetch(fetch), coding))
  clear.node?.push(await isClear(askByNode(), coding))
}
console.log(JSON.stringify(clear))
process.exit()
