/** How refusals of ours arrive from SQL, through the Data API and in an error of Postgres alike. */
import { z } from 'zod'
import { AppError, isErrorCode } from './errors.ts'

const refusal = z.object({ code: z.string(), message: z.string() })

/** Our refusal in a text, or undefined when the text is something else. */
export function refusalIn(text: string): AppError | undefined {
  const { data } = refusal.safeParse(parseJson(text))
  return data && isErrorCode(data.code) ? new AppError(data.code, { message: data.message }) : undefined
}

/** Refusals of ours keep their words; what else goes wrong keeps none, because an error of Postgres may quote a parameter. */
export async function askSql<Row>(query: PromiseLike<Row>): Promise<Row> {
  try {
    return await query
  } catch (cause) {
    throw refusalIn(cause instanceof Error ? cause.message : '') ?? new AppError('internal', { cause: nameOf(cause) })
  }
}

/** For the log: a state such as 23505, and no words. */
const nameOf = (cause: unknown) =>
  new Error(cause instanceof Error && 'code' in cause ? `${cause.name} ${String(cause.code)}` : 'unknown')

/** Null for what is no JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
