/** The least that a gateway in Deno can do: the caller's body to the provider, the provider's answer to the caller. */
import './end-with-parent.ts'
import process from 'node:process'

const [, , port, providerUrl] = process.argv

Deno.serve({ hostname: '127.0.0.1', port: Number(port), onListen: () => {} }, async (request) => {
  if (request.method === 'GET') return new Response('ok')
  const headers = { 'content-type': 'application/json', 'accept-encoding': 'identity' }
  const answer = await fetch(`${providerUrl}/chat/completions`, {
    method: 'POST',
    headers,
    body: await request.text(),
    signal: request.signal,
  })
  return new Response(answer.body, { status: answer.status, headers: answer.headers })
})
