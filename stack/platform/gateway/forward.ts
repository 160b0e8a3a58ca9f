/** Passes a request on and its answer back as streams; when the caller hangs up, the far end hears it. */

/** Headers that belong to one connection (RFC 9110, 7.6.1), or that fetch sets itself. */
const hopByHop = [
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'host',
  'content-length',
]

/** This is the outermost hop: what a caller claims about earlier ones, or about Cloudflare's, does not count. */
export function setAddress(headers: Headers, address: string): void {
  headers.set('x-forwarded-for', address)
  headers.delete('cf-connecting-ip')
}

export async function forward(
  request: Request,
  target: string,
  options: { address: string; authorization?: string },
): Promise<Response> {
  const incoming = new URL(request.url)
  const headers = new Headers(request.headers)
  for (const name of hopByHop) headers.delete(name)
  setAddress(headers, options.address)
  headers.set('x-forwarded-host', incoming.host)
  headers.set('x-forwarded-proto', incoming.protocol.slice(0, -1))
  headers.set('accept-encoding', 'identity')
  if (options.authorization) headers.set('authorization', options.authorization)
  const response = await fetch(`${target}${incoming.search}`, {
    method: request.method,
    headers,
    body: request.body,
    redirect: 'manual',
    signal: request.signal,
    ...(request.body ? { duplex: 'half' as const } : {}),
  })
  const answer = new Headers(response.headers)
  for (const name of hopByHop) answer.delete(name)
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers: answer })
}
