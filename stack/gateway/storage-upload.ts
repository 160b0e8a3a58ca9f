/** supabase-js sends a Blob as a form with a nameless file; @supabase/lite looks for one named `file`. So it gets the bytes. */

export async function unwrapUpload(request: Request): Promise<Request> {
  const isUpload =
    /^(?:POST|PUT)$/.test(request.method) && /^\/storage\/v1\/object\//.test(new URL(request.url).pathname)
  if (!isUpload || !request.headers.get('content-type')?.startsWith('multipart/form-data')) return request
  const form = await request.formData()
  const file = [...form.values()].find((value) => value instanceof Blob)
  if (!file) return new Request(request.url, { method: request.method, headers: request.headers })
  const headers = new Headers(request.headers)
  headers.delete('content-length')
  headers.set('content-type', file.type || 'application/octet-stream')
  headers.set('cache-control', `max-age=${form.get('cacheControl') ?? 3600}`)
  return new Request(request.url, { method: request.method, headers, body: await file.arrayBuffer() })
}
