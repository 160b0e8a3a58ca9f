/** How much a model has said in a run of events, without parsing them: the ground of an estimate, not of a bill by itself. */

const quote = '"'

/**
 * The bytes of all string values inside `delta` objects but the role: text, reasoning, refusal, names and arguments of tools.
 * `events` is one character per byte. Escapes count as they are written, so the number is never too small.
 */
export function saidBytes(events: string): number {
  let bytes = 0
  let at = events.indexOf('"delta"')
  while (at >= 0) {
    const delta = stringsIn(events, at + '"delta"'.length)
    bytes += delta.bytes
    at = events.indexOf('"delta"', delta.end)
  }
  return bytes
}

/** Walks one object from the colon before it to its closing brace; what stands between its strings does not matter. */
function stringsIn(text: string, from: number): { bytes: number; end: number } {
  let bytes = 0
  let depth = 0
  let key = ''
  for (let at = from; at < text.length; at += 1) {
    const character = text[at]
    if (character === '{') depth += 1
    if (character === '}') depth -= 1
    if (character === '}' && depth <= 0) return { bytes, end: at }
    if (character !== quote) continue
    if (depth === 0) return { bytes, end: at } // `"delta": null`, and this is the next field.
    const end = endOfString(text, at + 1)
    const isKey = /^\s*:/.test(text.slice(end + 1, end + 9))
    if (isKey) key = text.slice(at + 1, end)
    else if (key !== 'role') bytes += end - at - 1
    at = end
  }
  return { bytes, end: text.length }
}

function endOfString(text: string, from: number): number {
  let end = text.indexOf(quote, from)
  while (end >= 0) {
    let slashes = 0
    while (text[end - 1 - slashes] === '\\') slashes += 1
    if (slashes % 2 === 0) return end
    end = text.indexOf(quote, end + 1)
  }
  return text.length
}
