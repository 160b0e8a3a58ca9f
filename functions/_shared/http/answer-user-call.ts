/** What endpoints for signed-in users have in common: the log line, the errors, and the headers that a browser needs. */
import { renderError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { answerPreflight, corsHeaders } from './cors.ts'
import { requestId as requestIdOf } from './request-headers.ts'

type World = { newId(): string; now(): number; log(line: Record<string, unknown>): void }
/** JSON, nothing, or a page for people; `log` is added to the log line. */
export type Answer = { status: number; log?: Record<string, unknown> } & (
  | { body: Record<string, unknown> | null }
  | { page: string }
)
type Endpoint = {
  name: string
  /** For the preflight, as `POST, OPTIONS`. */
  methods: string
  route(pathname: string, requestId: string): Promise<Answer>
}

export async function answerUserCall(request: Request, { name, methods, route }: Endpoint, world: World) {
  if (request.method === 'OPTIONS') return answerPreflight(request, methods)
  const requestId = requestIdOf(request.headers, world.newId)
  const { pathname } = new URL(request.url)
  const line = { message: name, request_id: requestId, method: request.method, path: pathname }
  const response = await route(pathname, requestId)
    .then((answer) => {
      world.log({ ...line, level: 'info', http_status: answer.status, ...answer.log })
      return respond(answer)
    })
    .catch((cause: unknown) => {
      const error = toAppError(cause)
      const level = error.status >= 500 ? 'error' : 'info'
      world.log({ ...line, level, http_status: error.status, error_code: error.code, ...causeOf(error) })
      return renderError(error, world.now())
    })
  const headers = { ...corsHeaders, 'x-request-id': requestId, 'cache-control': 'no-store' }
  for (const [header, value] of Object.entries(headers)) response.headers.set(header, value)
  return response
}

/** A page shows itself and nothing else: no script, no frame, no address of it told to others. */
const pageHeaders = {
  'content-type': 'text/html; charset=utf-8',
  'content-security-policy':
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
}

function respond(answer: Answer): Response {
  const { status } = answer
  if ('page' in answer) return new Response(answer.page, { status, headers: pageHeaders })
  return answer.body === null ? new Response(null, { status }) : Response.json(answer.body, { status })
}
