/** What we read of a provider's answer, JSON or a chunk of a stream. The rest is not our business and is passed on as it is. */
import { type Fields, isFields } from '../forms.ts'
import { byteLength } from './estimate-tokens.ts'
import { type Report, readReport, type Said } from './read-usage.ts'
import type { Endpoint } from './snapshot.ts'

type Choice = { index: number; message: unknown; delta: unknown; text: unknown; finish_reason: string | null }

export type ProviderAnswer = {
  choices: Choice[] | undefined
  /** Vectors or images. */
  data: unknown[] | undefined
  report: Report | null
  /** Where it says that something went wrong: the answer itself or one of its choices. */
  failure: Fields | undefined
  said: Said
}

/**
 * Undefined for what is not a JSON object, nor a list of one. Read by hand, since this is done for every answer; a part that makes no
 * sense is a missing one, so there is nothing that a schema would have to say.
 */
export function readProviderAnswer(json: string): ProviderAnswer | undefined {
  const given = parseJson(json)
  // Google puts an error into a list.
  const answer = Array.isArray(given) ? given[0] : given
  if (!isFields(answer)) return undefined
  const choices = readChoices(answer.choices)
  const said = { text: 0, media: 0 }
  for (const { message, delta, text } of choices ?? []) {
    count(message, said)
    count(delta, said)
    if (typeof text === 'string') said.text += byteLength(text)
  }
  return {
    choices,
    data: Array.isArray(answer.data) ? answer.data : undefined,
    report: readReport(answer),
    failure: failureIn(answer),
    said,
  }
}

/** Undefined for what is no JSON. */
export function parseJson(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}

function readChoices(given: unknown): Choice[] | undefined {
  if (!Array.isArray(given) || !given.every(isFields)) return undefined
  return given.map(({ index, message, delta, text, finish_reason }) => ({
    index: typeof index === 'number' ? index : 0,
    message,
    delta,
    text,
    finish_reason: typeof finish_reason === 'string' ? finish_reason : null,
  }))
}

/** Deeper than this nobody says anything, and no stack of ours is used up. */
const deepest = 12

/** Some send `error: ""`, `false` or `{}` beside a good answer. */
function saysError(error: unknown, depth = 0): boolean {
  if (typeof error === 'string') return error.trim() !== ''
  if (typeof error !== 'object' || error === null || depth > deepest) return Boolean(error)
  return Object.values(error).some((value) => saysError(value, depth + 1))
}

function failureIn(answer: Fields): Fields | undefined {
  if (saysError(answer.error) || answer.object === 'error' || answer.type === 'error') return answer
  if (!Array.isArray(answer.choices)) return undefined
  return answer.choices.filter(isFields).find((one) => one.finish_reason === 'error' || saysError(one.error))
}

/** From this length on a string with such a name is a picture or sound as base64. */
const mediaBytes = 1_000
const mediaNames = new Set(['data', 'url', 'b64_json'])
export const isMedia = (name: string, bytes: number) => bytes >= mediaBytes && mediaNames.has(name)

/** Adds what a model said in a `message` or a `delta`: text, reasoning, refusal, tool calls, pictures, sound. */
function count(given: unknown, said: Said, name = '', depth = 0): void {
  if (typeof given === 'string') {
    const bytes = byteLength(given)
    if (isMedia(name, bytes)) said.media += bytes
    else said.text += bytes
  } else if (typeof given === 'object' && given !== null && depth <= deepest) {
    for (const [field, value] of Object.entries(given)) if (field !== 'role') count(value, said, field, depth + 1)
  }
}

/** Whether there is what was asked for, whatever else is there. */
export function isAnswer({ choices = [], data = [] }: ProviderAnswer, endpoint: Endpoint): boolean {
  if (endpoint === 'chat.completions')
    return choices.some(({ message, text }) => isFields(message) || typeof text === 'string')
  if (endpoint === 'images.generations') return imagesIn(data) > 0
  const [first] = data
  return isFields(first) && (typeof first.embedding === 'string' || Array.isArray(first.embedding))
}

export const imagesIn = (data: unknown[]): number =>
  data.filter((one) => isFields(one) && (typeof one.b64_json === 'string' || typeof one.url === 'string')).length
