/** Turns lite's answers into those of the real Auth service: our tokens in place of its own, errors in the shape asked for. */
import { z } from 'zod'

export type Exchange = (innerToken: string) => Promise<string | null>

const session = z.looseObject({ access_token: z.string() })
const problem = z.looseObject({ code: z.number(), error_code: z.string(), msg: z.string() })

/** From this API version on, an error is {code, message}, and the answer says which version it speaks. */
const newShape = '2024-01-01'
const isNewShape = (version: string | null) => version !== null && version >= newShape

/** Bodies and redirects of the Auth service; `apiVersion` is the caller's X-Supabase-Api-Version. */
export async function authAnswer(response: Response, exchange: Exchange, apiVersion: string | null): Promise<Response> {
  const headers = new Headers(response.headers)
  headers.delete('content-length')
  const location = headers.get('location')
  if (location?.includes('access_token=')) {
    headers.set('location', await exchangeFragment(location, exchange))
    return new Response(null, { status: response.status, headers })
  }
  if (!headers.get('content-type')?.includes('json')) return response
  const body: unknown = await response.json().catch(() => null)
  const withToken = session.safeParse(body)
  if (withToken.success) {
    const token = await exchange(withToken.data.access_token)
    if (token === null) return authError(400, 'user_banned', 'User is banned', apiVersion)
    return Response.json({ ...withToken.data, access_token: token }, { status: response.status, headers })
  }
  const failed = problem.safeParse(body)
  if (failed.success && isNewShape(apiVersion)) {
    const { code: _status, error_code: code, msg: message, ...rest } = failed.data
    headers.set('x-supabase-api-version', newShape)
    return Response.json({ code, message, ...rest }, { status: response.status, headers })
  }
  return Response.json(body, { status: response.status, headers })
}

/** An error body as the Auth service writes it for this API version. */
export function authError(status: number, code: string, message: string, apiVersion: string | null): Response {
  const headers = { 'x-sb-error-code': code }
  return isNewShape(apiVersion)
    ? Response.json({ code, message }, { status, headers: { ...headers, 'x-supabase-api-version': newShape } })
    : Response.json({ code: status, error_code: code, msg: message }, { status, headers })
}

async function exchangeFragment(location: string, exchange: Exchange): Promise<string> {
  const url = new URL(location)
  const fragment = new URLSearchParams(url.hash.slice(1))
  const token = await exchange(fragment.get('access_token') ?? '')
  if (token === null) {
    const refusal = { error: 'access_denied', error_code: 'user_banned', error_description: 'User is banned' }
    url.hash = new URLSearchParams(refusal).toString()
  } else {
    fragment.set('access_token', token)
    url.hash = fragment.toString()
  }
  return url.href
}
