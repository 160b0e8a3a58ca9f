/** The door for small JSON bodies. Refusals name the field and never repeat what was in it. */
import type { z } from 'zod'
import { AppError } from '../errors.ts'
import { BodyTooLarge, readBody } from './read-body.ts'

const bodyLimitBytes = 16_000

export async function readJson<Schema extends z.ZodType>(request: Request, schema: Schema): Promise<z.infer<Schema>> {
  const { data, error } = schema.safeParse(await parseBody(request))
  if (!error) return data
  const [issue] = error.issues
  const param = issue?.code === 'unrecognized_keys' ? issue.keys[0] : issue?.path.join('.')
  throw new AppError('invalid_request_error', { message: `${param || 'The body'}: ${whyOf(issue)}`, param })
}

/** A schema's own words are said where it has some: they are ours, and zod's default would be "Invalid input". */
function whyOf(issue: z.core.$ZodIssue | undefined): string {
  if (issue?.code === 'unrecognized_keys') return 'is not a field here.'
  return issue?.code === 'custom' && issue.message !== 'Invalid input' ? issue.message : 'is missing or not valid.'
}

async function parseBody(request: Request): Promise<unknown> {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await readBody(request, bodyLimitBytes)))
  } catch (cause) {
    if (cause instanceof BodyTooLarge)
      throw new AppError('request_too_large', { message: 'The body is larger than 16 kB.' })
    // Without the cause: a parser's message repeats a part of the text.
    throw new AppError('invalid_request_error', { message: 'The body is not valid JSON.' })
  }
}
