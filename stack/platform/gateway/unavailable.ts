/** The gateway's answer in the place of a service that cannot give one: 503 and Retry-After, in the words of that service. */
import { AuthProblem, renderAuthProblem } from '../auth/errors.ts'

const retryAfterSeconds = '1'

/** Clients read refusals in one shape only: of functions in OpenAI's, of the others in that of the real service. */
export function unavailable(request: Request, message: string): Response {
  const { pathname } = new URL(request.url)
  const answer = pathname.startsWith('/auth/v1/')
    ? authRefusal(request, message)
    : Response.json(bodyFor(pathname, message), { status: 503 })
  answer.headers.set('retry-after', retryAfterSeconds)
  return answer
}

const authRefusal = (request: Request, message: string) =>
  renderAuthProblem(new AuthProblem(503, 'unexpected_failure', message), request.headers.get('x-supabase-api-version'))

function bodyFor(path: string, message: string): Record<string, unknown> {
  if (path.startsWith('/functions/v1/'))
    return { error: { message, type: 'server_error', param: null, code: 'service_unavailable' } }
  // PostgREST's code for a lost connection.
  if (path.startsWith('/rest/v1/')) return { code: 'PGRST001', details: null, hint: null, message }
  if (path.startsWith('/storage/v1/')) return { statusCode: '503', error: 'ServiceUnavailable', message }
  return { message }
}
