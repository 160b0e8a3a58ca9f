/** A caller's own id is taken when it cannot break a log line or a header. */
export function requestId(headers: Headers, newId: () => string): string {
  const given = headers.get('x-request-id')
  return given !== null && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : newId()
}
