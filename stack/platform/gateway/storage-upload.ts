/**
 * Uploads as @supabase/lite can take them: supabase-js sends a Blob as a form with a nameless file, lite looks for one named
 * `file`; and lite knows an upload's size only from content-length. So it gets the bytes alone, with their length.
 */

/** A file of 16 MiB in a form, with room for the form. */
const bodyLimit = 17 * 1024 * 1024

export async function unwrapUpload(request: Request): Promise<Request | Response> {
  const isUpload =
    /^(?:POST|PUT)$/.test(request.method) && /^\/storage\/v1\/object\//.test(new URL(request.url).pathname)
  if (!isUpload) return request
  const sent = await readBody(request)
  if (!sent) return tooLarge()
  const headers = new Headers(request.headers)
  if (!headers.get('content-type')?.startsWith('multipart/form-data')) return withBody(request, headers, sent)
  const form = await new Response(sent, { headers }).formData().catch(() => new FormData())
  const file = [...form.values()].find((value) => value instanceof Blob)
  if (!file) return new Request(request.url, { method: request.method, headers })
  headers.set('content-type', file.type || 'application/octet-stream')
  headers.set('cache-control', `max-age=${form.get('cacheControl') ?? 3600}`)
  return withBody(request, headers, file)
}

async function readBody(request: Request): Promise<Blob | null> {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let size = 0
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength
    if (size > bodyLimit) return null
    chunks.push(new Uint8Array(chunk))
  }
  return new Blob(chunks)
}

async function withBody(request: Request, headers: Headers, body: Blob): Promise<Request> {
  headers.set('content-length', String(body.size))
  return new Request(request.url, { method: request.method, headers, body: await body.arrayBuffer() })
}

/** As the Storage service says it: the status of the error is in the body. */
const tooLarge = () =>
  Response.json(
    { statusCode: '413', error: 'Payload too large', message: 'The object exceeded the maximum allowed size' },
    { status: 400 },
  )
