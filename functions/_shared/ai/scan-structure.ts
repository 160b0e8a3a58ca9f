/**
 * What a body would become in memory, counted in its bytes before it is parsed: 20 MB of `{},` are seven million objects, which take
 * half a gigabyte and five seconds, and a worker has 256 MB.
 */
import { AppError } from '../errors.ts'
import { endOfText } from './scan-model.ts'

/** A smaller one cannot have so much in it. */
const harmlessBytes = 200_000

/**
 * Twice what a request may have that uses all that is let in: 10,000 messages of three objects and lists each (30,000), 2,000 pictures
 * (4,000), a thousand tools of twelve (12,000); four names in three of them; and a megabyte of tokens of one digit, which has commas only.
 */
const most = { containers: 100_000, names: 150_000, commas: 500_000, depth: 1_000 }

const [other, quoted, opens, closes, names, separates] = [0, 1, 2, 3, 4, 5]
const kinds = new Uint8Array(256)
for (const [letters, kind] of [
  ['"', quoted],
  ['{[', opens],
  ['}]', closes],
  [':', names],
  [',', separates],
] as const)
  for (const letter of letters) kinds[letter.charCodeAt(0)] = kind

type Structure = { containers: number; names: number; commas: number; depth: number }

/**
 * Objects and lists, names and commas outside of texts, and how deep they are nested. Whether it is JSON, the parser says.
 * @internal For tests, which compare it with what is parsed.
 */
export function structureOf(bytes: Uint8Array): Structure {
  const found = { containers: 0, names: 0, commas: 0, depth: 0 }
  let depth = 0
  for (let at = 0; at < bytes.length; at += 1) {
    const kind = kinds[bytes[at] ?? 0]
    if (kind === other) continue
    if (kind === quoted) at = endOfText(bytes, at) - 1
    else if (kind === separates) found.commas += 1
    else if (kind === names) found.names += 1
    else if (kind === closes) depth -= 1
    else {
      found.containers += 1
      depth += 1
      if (depth > found.depth) found.depth = depth
    }
  }
  return found
}

/** Throws for a body that takes more time and memory to parse than an honest one. */
export function refuseIntricate(bytes: Uint8Array): void {
  if (bytes.byteLength <= harmlessBytes) return
  const { containers, names, commas, depth } = structureOf(bytes)
  if (depth > most.depth) throw intricate(`is nested more than ${most.depth} deep`)
  if (containers > most.containers) throw intricate(`has more than ${most.containers} objects and lists`)
  if (names > most.names) throw intricate(`has more than ${most.names} fields`)
  if (commas > most.commas) throw intricate(`has more than ${most.commas} values`)
}

const intricate = (what: string) => new AppError('invalid_request_error', { message: `The body ${what}.` })
