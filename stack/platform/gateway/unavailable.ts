/** The gateway's answer in the place of a service that cannot give one: 503 and Retry-After, in the words of that service. */
import { AuthProblem, renderAuthProblem } from '../auth/errors.ts'

const retryAfterSeconds = '1'

/** Clients read refusals in one shape only: of functions in OpenAI's, of the others in that of the real service. */
export function unavailable(request: Request, message: string): Response {
  const service = /^\/(auth|rest|storage|functions)\/v1(?:\/|$)/.exec(new URL(request.url).pathname)?.[1]
  const answer =
    service === 'auth' ? authRefusal(request, message) : Response.json(bodyOf(service, message), { status: 503 })
  answer.headers.set('retry-after', retryAfterSeconds)
  return answer
}

const authRefusal = (request: Request, message: string) =>
  renderAuthProblem(new AuthProblem(503, 'unexpected_failure', message), request.headers.get('x-supabase-api-version'))

function bodyOf(service: string | undefined, message: string): Record<string, unknown> {
  if (service === 'functions')
    return { error: { message, type: 'server_error', param: null, code: 'service_unavailable' } }
  // PostgREST's code for a lost connection.
  if (service === 'rest') return { code: 'PGRST001', details: null, hint: null, message }
  if (service === 'storage') return { statusCode: '503', error: 'ServiceUnavailable', message }
  return { message }
}
