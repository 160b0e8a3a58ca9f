/** Functions of the Data API, called with a user's own token: session, second factor and limits are decided in SQL. */
import { AppError, refusalIn } from '../errors.ts'

export type ApiAccess = {
  /** The project's URL, without /rest/v1. */
  apiUrl: string
  publishableKey: string
  fetch(url: string, init: RequestInit): Promise<Response>
}
export type UserRpc = (token: string, name: string, args?: Record<string, unknown>) => Promise<unknown>

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
    throw refusalIn(text) ?? new AppError(response.status === 401 ? 'invalid_api_key' : 'internal')
  }
}
