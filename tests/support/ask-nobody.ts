/** Run by Deno in ai-transport.test.ts: what the gateway says of connections that fail, from the runtime's own errors. */
import process from 'node:process'
import { describeTransport } from '../../functions/_shared/failure.ts'

const said = []
for (const url of process.argv.slice(2)) {
  const answer = await fetch(url)
    .then(
      (response) => response.text(),
      (error: unknown) => describeTransport(error, url),
    )
    .catch((error: unknown) => describeTransport(error))
  said.push(answer)
}
console.log(JSON.stringify(said))
