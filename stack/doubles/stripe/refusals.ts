/** Errors in Stripe's shape. */
type ErrorType = 'invalid_request_error' | 'card_error' | 'idempotency_error' | 'api_error' | 'rate_limit_error'
type Details = { type?: ErrorType; code?: string; param?: string; decline_code?: string; [extra: string]: unknown }

/** Thrown where a request cannot be done, answered by the router. */
export class Refusal extends Error {
  readonly status: number
  readonly details: Details
  constructor(status: number, message: string, details: Details = {}) {
    super(message)
    this.status = status
    this.details = details
  }
}

export const invalid = (message: string, details: Details = {}) => new Refusal(400, message, details)

export const missing = (kind: string, id: string, param = 'id') =>
  new Refusal(404, `No such ${kind}: '${id}'`, { code: 'resource_missing', param })

export const errorBody = ({ message, details }: Refusal) => ({
  error: { type: 'invalid_request_error', message, ...details },
})

/** The object of that id, or Stripe's answer that there is none. */
export function need<T>(objects: Map<string, T>, kind: string, id: string, param = 'id'): T {
  const found = objects.get(id)
  if (found === undefined) throw missing(kind, id, param)
  return found
}
