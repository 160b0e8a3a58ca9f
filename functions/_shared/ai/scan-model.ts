/**
 * The model that a body names, without parsing the body: a large one is let in by its model. Looks at the keys of the outermost object
 * only, steps over everything else, and says nothing where JSON.parse would not understand what came so far.
 */

const quote = 0x22
const backslash = 0x5c
const colon = 0x3a
const comma = 0x2c
const [openBrace, closeBrace, openBracket, closeBracket] = [0x7b, 0x7d, 0x5b, 0x5d]
const isSpace = (byte: number | undefined) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

/** Each letter of a name may be written in six. */
const longestName = 6 * 200 + 2

/** Undefined where there is none, or none so far. Of several the first: JSON.parse takes the last. */
export function modelIn(bytes: Uint8Array): string | undefined {
  let at = skipSpace(bytes, hasMark(bytes) ? 3 : 0)
  if (bytes[at] !== openBrace) return undefined
  do {
    const key = skipSpace(bytes, at + 1)
    const afterKey = endOfText(bytes, key)
    const colonAt = skipSpace(bytes, afterKey)
    if (bytes[colonAt] !== colon) return undefined
    const value = skipSpace(bytes, colonAt + 1)
    const end = endOfValue(bytes, value)
    if (end > bytes.length) return undefined
    if (textIn(bytes, key, afterKey) === 'model') return bytes[value] === quote ? textIn(bytes, value, end) : undefined
    at = skipSpace(bytes, end)
  } while (bytes[at] === comma)
  return undefined
}

const hasMark = (bytes: Uint8Array) => bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf

function skipSpace(bytes: Uint8Array, from: number): number {
  let at = from
  while (isSpace(bytes[at])) at += 1
  return at
}

/** Behind the end of what came when it does not end there. */
export function endOfText(bytes: Uint8Array, from: number): number {
  if (bytes[from] !== quote) return Number.POSITIVE_INFINITY
  for (let at = from + 1; ; at += 1) {
    at = bytes.indexOf(quote, at)
    if (at < 0) return Number.POSITIVE_INFINITY
    let before = at - 1
    while (before > from && bytes[before] === backslash) before -= 1
    if ((at - before) % 2 === 1) return at + 1
  }
}

function endOfValue(bytes: Uint8Array, from: number): number {
  const first = bytes[from]
  if (first === quote) return endOfText(bytes, from)
  if (first === openBrace || first === openBracket) return endOfNested(bytes, from)
  let at = from
  while (at < bytes.length && bytes[at] !== comma && bytes[at] !== closeBrace && !isSpace(bytes[at])) at += 1
  return at
}

function endOfNested(bytes: Uint8Array, from: number): number {
  let depth = 0
  for (let at = from; at < bytes.length; at += 1) {
    const byte = bytes[at]
    if (byte === quote) at = endOfText(bytes, at) - 1
    else if (byte === openBrace || byte === openBracket) depth += 1
    else if (byte === closeBrace || byte === closeBracket) {
      depth -= 1
      if (depth === 0) return at + 1
    }
  }
  return Number.POSITIVE_INFINITY
}

const decoder = new TextDecoder('utf-8', { fatal: true })

function textIn(bytes: Uint8Array, from: number, end: number): string | undefined {
  if (end - from > longestName) return undefined
  try {
    const text: unknown = JSON.parse(decoder.decode(bytes.subarray(from, end)))
    return typeof text === 'string' ? text : undefined
  } catch {
    return undefined
  }
}
