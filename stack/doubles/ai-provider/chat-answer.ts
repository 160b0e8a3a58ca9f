import { z } from 'zod'
import { type Behaviours, serverError } from './behaviours.ts'

const part = z.looseObject({ type: z.string(), text: z.string().optional() })
const message = z.looseObject({ role: z.string(), content: z.union([z.string(), z.array(part), z.null()]).optional() })
const tokenLimit = z.int().min(1).nullish()

export const chatRequest = z.looseObject({
  model: z.string(),
  messages: z.array(message).min(1),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().optional() }).nullish(),
  max_tokens: tokenLimit,
  max_completion_tokens: tokenLimit,
  n: z.int().min(1).max(128).nullish(),
})

type ChatRequest = z.infer<typeof chatRequest>

/** A token is 4 bytes of UTF-8, rounded up for each text: `count('hello') === 2`. */
export const countTokens = (text: string): number => Math.ceil(Buffer.byteLength(text) / 4)

const textOf = (content: z.infer<typeof message>['content']): string =>
  typeof content === 'string' ? content : (content ?? []).map((piece) => piece.text ?? '').join('')

function replyTo(request: ChatRequest, wants: Behaviours): string[] {
  if (wants.has('long')) return Array.from({ length: 2000 }, (_, index) => String(index).padStart(4, '0'))
  const said = textOf(request.messages.findLast(({ role }) => role === 'user')?.content)
  const multibyte = wants.has('utf8-split') ? ' Příliš žluťoučký kůň 🛡 日本語' : ''
  return `You said: ${said}${multibyte}`.match(/\s*\S+/g) ?? []
}

/** Keeps the first `tokens` tokens and never half a character. */
function cut(pieces: string[], tokens: number): { pieces: string[]; tokens: number; finish_reason: 'stop' | 'length' } {
  const text = pieces.join('')
  if (countTokens(text) <= tokens) return { pieces, tokens: countTokens(text), finish_reason: 'stop' }
  const kept: string[] = []
  let left = tokens * 4
  for (const piece of pieces) {
    let prefix = ''
    for (const character of piece) {
      left -= Buffer.byteLength(character)
      if (left < 0) return { pieces: [...kept, prefix].filter(Boolean), tokens, finish_reason: 'length' }
      prefix += character
    }
    kept.push(prefix)
  }
  return { pieces: kept, tokens, finish_reason: 'length' }
}

function usageOf(prompt: number, completion: number, reasoning: number, wants: Behaviours) {
  if (wants.has('usage-huge')) return { prompt_tokens: prompt * 1e6, completion_tokens: completion * 1e6, cost: 1e6 }
  if (wants.has('usage-odd')) return { prompt_tokens: -1, completion_tokens: 0.5, total_tokens: 2 ** 60, cost: 1e300 }
  const [input, output, thought] = wants.has('zero-usage') ? [0, 0, 0] : [prompt, completion, reasoning]
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: wants.has('cached') ? Math.floor(input / 2) : 0, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: thought, audio_tokens: 0 },
    ...(wants.has('usage-openrouter') && { cost: (input + output) / 1_000_000 }),
  }
}

type ChatAnswer = ReturnType<typeof chatAnswer>

/** Everything that will be said, before it is decided how it is sent. */
export function chatAnswer(request: ChatRequest, wants: Behaviours, id: string, now: number) {
  const limit = request.max_completion_tokens ?? request.max_tokens ?? Number.POSITIVE_INFINITY
  const reasoning = wants.has('reasoning') ? Math.min(64, limit) : 0
  const choice = cut(replyTo(request, wants), limit - reasoning)
  const n = request.n ?? 1
  const prompt = request.messages.reduce((sum, { content }) => sum + countTokens(textOf(content)), 0)
  return {
    head: {
      id: `chatcmpl-${id}`,
      created: Math.floor(now / 1000),
      model: request.model,
      system_fingerprint: 'fp_echo',
    },
    choices: Array.from({ length: n }, () => choice),
    usage: usageOf(prompt, n * (reasoning + choice.tokens), n * reasoning, wants),
  }
}

const upstreamError = {
  message: 'Provider disconnected unexpectedly.',
  type: serverError.type,
  param: null,
  code: 'server_error',
}
const padding = 'x'.repeat(2 ** 20)

/** The body of a JSON answer. */
export function chatCompletion({ head, choices, usage }: ChatAnswer, wants: Behaviours): object {
  if (wants.has('error-first') || wants.has('error-middle')) return { error: upstreamError }
  return {
    ...head,
    object: 'chat.completion',
    choices: choices.map(({ pieces, finish_reason }, index) => ({
      index,
      message: { role: 'assistant', content: pieces.join(''), refusal: null },
      logprobs: null,
      finish_reason,
    })),
    ...(!wants.has('no-usage') && { usage }),
    ...(wants.has('big-chunk') && { padding }),
  }
}

/** One thing to do to the stream: send a chunk, send text as it is, or misbehave. */
export type StreamEvent = { chunk: object } | { text: string } | 'silence' | 'tear'

/** The events of a streamed answer, in order. */
export function* chatEvents(
  { head, choices, usage }: ChatAnswer,
  asked: boolean,
  wants: Behaviours,
): Generator<StreamEvent> {
  const reports = asked && !wants.has('no-usage')
  // OpenAI sends `usage: null` in every other chunk when usage was asked for.
  const chunk = (more: object): StreamEvent => ({
    chunk: { ...head, object: 'chat.completion.chunk', ...(reports && { usage: null }), ...more },
  })
  const delta = (index: number, delta: object, finish_reason: string | null = null) => [
    { index, delta, logprobs: null, finish_reason },
  ]
  const repeated = wants.has('usage-openrouter')
    ? delta(0, { role: 'assistant', content: '' }, choices[0]?.finish_reason)
    : []

  if (wants.has('hang-body')) return yield 'silence'
  if (wants.has('error-first')) return yield { chunk: { error: upstreamError } }
  if (wants.has('usage-openrouter'))
    yield* [{ text: ': OPENROUTER PROCESSING\n\n' }, { text: ': OPENROUTER PROCESSING\n\n' }]
  for (const index of choices.keys())
    yield chunk({ choices: delta(index, { role: 'assistant', content: '', refusal: null }) })
  if (reports && wants.has('usage-early')) yield chunk({ choices: [], usage })
  while (wants.has('endless')) yield chunk({ choices: delta(0, { content: 'more' }) })

  const pieces = choices[0]?.pieces ?? []
  const middle = Math.floor(pieces.length / 2)
  for (const [position, content] of pieces.entries()) {
    if (position === middle && wants.has('error-middle'))
      return yield chunk({ error: upstreamError, choices: delta(0, { content: '' }, 'error') })
    if (position === middle && wants.has('reset')) return yield 'tear'
    if (position === middle && wants.has('garbage'))
      return yield { text: 'data: {"id":"chatcmpl-\n\n<html>502 Bad Gateway</html>\n\n' }
    const big = position === 0 && wants.has('big-chunk') ? { padding } : {}
    for (const index of choices.keys()) yield chunk({ choices: delta(index, { content }), ...big })
  }

  for (const [index, { finish_reason }] of choices.entries()) yield chunk({ choices: delta(index, {}, finish_reason) })
  if (reports && !wants.has('usage-early')) yield chunk({ choices: repeated, usage })
  if (reports && wants.has('usage-twice')) yield chunk({ choices: repeated, usage })
  yield { text: 'data: [DONE]\n\n' }
}
