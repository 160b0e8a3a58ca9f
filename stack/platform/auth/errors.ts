/** Refusals of the Auth service: one error with a status and a code, written in the shape that the caller's API version asks for. */
import postgres from 'postgres'

/** From this API version on, an error is {code, message}, and the answer says which version it speaks. */
const newShape = '2024-01-01'

export class AuthProblem extends Error {
  readonly status: number
  /** Empty for a hook's refusal, which cannot choose one. */
  readonly code: string
  /** More fields of the body, for example `weak_password`. */
  readonly extra: Record<string, unknown>

  constructor(status: number, code: string, message: string, extra: Record<string, unknown> = {}) {
    super(message)
    this.status = status
    this.code = code
    this.extra = extra
  }
}

export const invalid = (message: string) => new AuthProblem(400, 'validation_failed', message)
export const unexpected = (message: string) => new AuthProblem(500, 'unexpected_failure', message)

/** The answer to a refusal; `apiVersion` is the caller's X-Supabase-Api-Version. */
export function renderAuthProblem(problem: AuthProblem, apiVersion: string | null): Response {
  const { status, message, extra } = problem
  const code = codeOf(problem)
  const headers = { 'x-sb-error-code': code }
  const surfaced = isNewShape(apiVersion) ? undefined : raisedBySql(problem.cause)
  if (surfaced) return Response.json(surfaced.body, { status: surfaced.status, headers })
  return isNewShape(apiVersion)
    ? Response.json(
        { code, message, ...extra },
        { status, headers: { ...headers, 'x-supabase-api-version': newShape } },
      )
    : Response.json({ code: status, error_code: code, msg: message, ...extra }, { status, headers })
}

/** The code that a caller sees. */
export const codeOf = ({ code, status }: AuthProblem) => code || (status === 500 ? 'unexpected_failure' : 'unknown')

const isNewShape = (version: string | null) => version !== null && version >= newShape

/** Callers of the old API version get to see what SQL raised on purpose: P0001 and violated constraints as 500, PTxyz as xyz. */
function raisedBySql(cause: unknown): { status: number; body: Record<string, string> } | undefined {
  if (!(cause instanceof postgres.PostgresError)) return undefined
  const { code, message, detail, hint } = cause
  const status = code === 'P0001' || code.startsWith('23') ? 500 : Number(/^PT([1-5]\d\d)$/.exec(code)?.[1])
  if (!status) return undefined
  return { status, body: { code, message, ...(hint ? { hint } : {}), ...(detail ? { detail } : {}) } }
}
