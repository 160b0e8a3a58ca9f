/** Run by Deno in ai-transport.test.ts: what the gateway says of connections that fail, from the runtime's own errors, both ways. */
import process from 'node:process'
import { type AskProvider, askByFetch, askByNode } from '../../functions/_shared/ai/ask-provider.ts'
import { describeTransport } from '../../functions/_shared/failure.ts'

const ways = { fetch: askByFetch(fetch), node: askByNode() }

async function say(ask: AskProvider, url: string): Promise<string> {
  try {
    const reply = await ask({ url, headers: {}, body: '{}' }, new AbortController().signal)
    const cause = await new Promise((end) => reply.body.listen(() => {}, end))
    return cause === undefined ? `status ${reply.status}` : describeTransport(cause)
  } catch (error) {
    return describeTransport(error, url)
  }
}

const said: Record<string, string[]> = {}
for (const [way, ask] of Object.entries(ways)) {
  said[way] = []
  for (const url of process.argv.slice(2)) said[way].push(await say(ask, url))
}
console.log(JSON.stringify(said))
process.exit()
