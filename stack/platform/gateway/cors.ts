/** CORS as Supabase answers it: any origin, because the API is guarded by keys and tokens, never by cookies. */

const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'

export function answerPreflight(request: Request): Response {
  const headers = {
    'access-control-allow-origin': '*',
    'access-control-allow-methods': methods,
    'access-control-allow-headers': request.headers.get('access-control-request-headers') ?? '*',
    'access-control-max-age': '3600',
  }
  return new Response(null, { status: 204, headers })
}

/** Adds what a browser needs to read the answer; an answer that brings its own rules (a function's) keeps them. */
export function withCors(response: Response): Response {
  if (response.headers.has('access-control-allow-origin')) return response
  const headers = new Headers(response.headers)
  headers.set('access-control-allow-origin', '*')
  headers.set(
    'access-control-expose-headers',
    'content-range, content-profile, location, link, x-total-count, x-sb-error-code, x-request-id',
  )
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers })
}
