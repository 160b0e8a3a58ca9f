/** Functions of the Data API, called with a user's own token: session, second factor and limits are decided in SQL. */
import { z } from 'zod'
import { AppError, isErrorCode } from '../errors.ts'

export type ApiAccess = {
  /** The project's URL, without /rest/v1. */
  apiUrl: string
  publishableKey: string
  fetch(url: string, init: RequestInit): Promise<Response>
}
export type UserRpc = (token: string, name: string, args?: Record<string, unknown>) => Promise<unknown>

/** How refusals of ours look, here and in an error of Postgres. */
export const refusal = z.object({ code: z.string(), message: z.string() })

/** Throws our refusals as they are; any other answer says nothing to the caller. */
export function createUserRpc({ apiUrl, publishableKey, fetch }: ApiAccess): UserRpc {
  return async (token, name, args = {}) => {
    const response = await fetch(`${apiUrl}/rest/v1/rpc/${name}`, {
      method: 'POST',
      headers: { apikey: publishableKey, authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(args),
    })
    const text = await response.text()
    if (response.ok) return text === '' ? null : JSON.parse(text)
    const { data } = refusal.safeParse(parseJson(text))
    if (data && isErrorCode(data.code)) throw new AppError(data.code, { message: data.message })
    throw new AppError(response.status === 401 ? 'invalid_api_key' : 'internal')
  }
}

/** Null for what is no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
