/**
 * What the stand-in can be told to do: ask for the model `echo+NAME`, or several, `echo+slow+no-usage`.
 * Without a word about JSON, an option that only concerns streams leaves JSON answers as they are.
 */
export const behaviours = {
  'no-usage': 'never reports usage, asked or not',
  'zero-usage': 'reports a usage of explicit zeros',
  'usage-huge': 'reports a million times the tokens that it used, and a cost to match',
  'usage-odd': 'reports numbers that are none: negative, with fractions, beyond 2^53; a cost of 1e300',
  'usage-twice': 'stream: sends the same usage chunk twice at the end; the tokens were spent once',
  'usage-early': 'stream: sends the usage chunk right after the role chunk and none at the end',
  'usage-openrouter':
    'as OpenRouter: comments first, the usage chunk carries a choice repeating finish_reason, usage.cost is 1 micro-dollar a token; JSON: usage.cost',
  'error-first': 'HTTP 200, and the first and only event is a top-level error; JSON: a body with a top-level error',
  'error-middle': 'half of the answer, then an event with a top-level error, no [DONE]; JSON: as error-first',
  hang: 'never sends headers; waits for the caller to hang up',
  'hang-body': 'sends headers, then nothing; waits for the caller to hang up',
  slow: 'waits 20 ms between chunks; JSON: 20 ms before the answer',
  slower: 'waits 500 ms between chunks; JSON: 500 ms before the answer',
  long: 'answers with 2,000 chunks of one token each, fewer if max_tokens cuts them',
  endless: 'sends a token every 5 ms, whatever max_tokens says, until the caller hangs up; JSON: as hang-body',
  '400': 'refuses with 400 invalid_request_error',
  '401': 'refuses with 401 invalid_api_key',
  '429': 'refuses with 429 rate_limit_exceeded and Retry-After: 1',
  '429-date': 'refuses with 429 rate_limit_exceeded and Retry-After as an HTTP date two seconds ahead',
  '500': 'fails with 500 server_error',
  '503': 'fails with 503 server_error (overloaded)',
  garbage:
    'breaks off inside the JSON of an event and goes on with noise, no [DONE]; JSON: an HTML page labelled as JSON',
  reset: 'tears the connection in the middle of the answer',
  'utf8-split': 'adds multi-byte characters to the answer and splits each of them across two writes',
  'big-chunk': 'the first content chunk has an unknown field `padding` of 1 MiB; JSON: the body has it',
  crlf: 'stream: ends lines with CRLF and spreads the JSON of an event over several data lines',
  flaky: 'the first attempt per x-request-id (else `user`, else body) fails with 500, the next ones succeed',
  cached: 'reports half of the prompt tokens, rounded down, as cached',
  reasoning: 'spends 64 reasoning tokens per choice, inside completion_tokens and before max_tokens, and reports them',
}

type Behaviour = keyof typeof behaviours
export type Behaviours = ReadonlySet<Behaviour>

const isBehaviour = (name: string): name is Behaviour => Object.hasOwn(behaviours, name)

/** `echo+slow` gives {slow}; undefined for a model that does not exist. */
export function parseModel(model: string): Behaviours | undefined {
  const [base, ...names] = model.split('+')
  return base === 'echo' && names.every(isBehaviour) ? new Set(names) : undefined
}

type Failure = { status: number; message: string; type: string; param: string | null; code: string | null }

export const serverError: Failure = {
  status: 500,
  message: 'The server had an error while processing your request.',
  type: 'server_error',
  param: null,
  code: null,
}

const rateLimited: Failure = {
  status: 429,
  message: 'Rate limit reached for requests.',
  type: 'requests',
  param: null,
  code: 'rate_limit_exceeded',
}

const failures: Partial<Record<Behaviour, Failure>> = {
  '400': {
    status: 400,
    message: 'Invalid value.',
    type: 'invalid_request_error',
    param: 'messages',
    code: 'invalid_value',
  },
  '401': {
    status: 401,
    message: 'Incorrect API key.',
    type: 'invalid_request_error',
    param: null,
    code: 'invalid_api_key',
  },
  '429': rateLimited,
  '429-date': rateLimited,
  '500': serverError,
  '503': { ...serverError, status: 503, message: 'The engine is currently overloaded, please try again later.' },
}

/** An error answer in OpenAI's shape. */
export function errorResponse({ status, ...error }: Failure, headers: Record<string, string> = {}): Response {
  return Response.json({ error }, { status, headers })
}

/** The refusal that the model name asks for, if it asks for one. */
export function refusal(wants: Behaviours): Response | undefined {
  for (const name of wants) {
    const failure = failures[name]
    if (!failure) continue
    if (name === '429') return errorResponse(failure, { 'retry-after': '1' })
    if (name === '429-date') return errorResponse(failure, { 'retry-after': new Date(Date.now() + 2000).toUTCString() })
    return errorResponse(failure)
  }
  return undefined
}
