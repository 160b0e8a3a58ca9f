/** What a model has to read for a request: its text in bytes, and its pictures, sounds and files, which are no text. */
import { byteLength, writeJson } from './estimate-tokens.ts'
import { fieldOf } from './field-tables.ts'
import { lookAt } from './media-kind.ts'
import { lengthOfSound, type MediaSize, sizeOfPicture } from './media-size.ts'
import type { Contents, Media } from './prompt-size.ts'
import { invalid } from './request-fields.ts'

type Message = Record<string, unknown>
type Read = Pick<Contents, 'textBytes' | 'media'> & {
  /** Without what a model may write around text that it is given as JSON. */
  plainBytes: number
}

const mostMedia = 2_000

/** `text`: the fields that a model reads, without the one of this name, a list of messages. */
export function readContents(field: string, messages: readonly Message[], text: Record<string, unknown>): Read {
  const media: Media[] = []
  const said = messages.map((message, at) => withoutMedia(message, `${field}.${at}`, media))
  if (media.length > mostMedia) throw invalid(field, `has more than ${mostMedia} pictures, sounds and files`)
  const { plainBytes, textBytes } = bytesOfText({ ...text, [field]: said })
  // Templates write what was called anew as well, from its JSON in a text.
  const around = messages.reduce((sum, one) => sum + aroundJson(one.tool_calls) + aroundJson(one.function_call), 0)
  return { plainBytes, textBytes: textBytes + around, media }
}

/** The bytes of text without media. */
export function bytesOfText(text: Record<string, unknown>): Pick<Read, 'textBytes' | 'plainBytes'> {
  const plainBytes = byteLength(writeJson(text))
  const around = structures.reduce((sum, field) => sum + aroundJson(text[field]), 0)
  return { plainBytes, textBytes: plainBytes + around }
}

/** Fields that providers write anew for the model, in a form of their own. */
const structures = ['tools', 'functions', 'response_format']

const lettersOfHtml = new Set([..."<>&'"].map((letter) => letter.charCodeAt(0)))

/**
 * What JSON may gain when it is written anew: lines with indents, spaces after colons, and letters as \uXXXX, which templates do to those
 * of HTML, too. In bytes that count as tokens: four levels of an indent are one, since every tokenizer has one for that many spaces.
 */
function aroundJson(value: unknown): number {
  if (value === undefined || value === null) return 0
  const json = writeJson({ value })
  let [gain, lines, depth, deepest, isText] = [0, 0, 0, 0, false]
  for (let at = 0; at < json.length; at += 1) {
    const code = json.charCodeAt(at)
    if (code > 0x7f) gain += 4
    else if (lettersOfHtml.has(code)) gain += 5
    else if (code === 0x22) isText = !isText
    else if (isText) at += code === 0x5c ? 1 : 0
    else if (code === 0x3a) gain += 1
    else if (code === 0x2c) lines += 1
    else if (code === 0x5b || code === 0x7b) {
      lines += 2
      depth += 1
      deepest = Math.max(deepest, depth)
    } else if (code === 0x5d || code === 0x7d) depth -= 1
  }
  return gain + lines * (1 + Math.ceil(deepest / 4))
}

/** The message as the model reads it, its media taken out of it and told. */
function withoutMedia(message: Message, param: string, media: Media[]): Message {
  const { content, images, audio, annotations } = message
  const isPlain = !Array.isArray(content) && !images && !audio && !annotations
  if (isPlain) return message
  const parts = Array.isArray(content)
    ? content.map((part, at) => readPart(part, `${param}.content.${at}`, media))
    : content
  if (images) readParts(asParts(images, `${param}.images`), `${param}.images`, media)
  // A sound of an earlier answer, by its name or as it came.
  if (audio) media.push({ kind: 'audio' })
  const notes = Array.isArray(annotations)
    ? annotations.map((note, at) => readNote(note, `${param}.annotations.${at}`, media))
    : annotations
  return { ...message, content: parts, images: undefined, audio: fieldOf(audio, 'transcript'), annotations: notes }
}

/** What a provider read in a file for an earlier answer, which it does not read again: text, and pictures. */
function readNote(note: unknown, param: string, media: Media[]): unknown {
  const file = fieldOf(note, 'file')
  const content = fieldOf(file, 'content')
  if (typeof note !== 'object' || typeof file !== 'object' || !Array.isArray(content)) return note
  return { ...note, file: { ...file, content: readParts(content, `${param}.file.content`, media) } }
}

/** The pictures of an earlier answer. */
function asParts(images: unknown, param: string): unknown[] {
  if (!Array.isArray(images)) throw invalid(param, 'is not a list')
  return images.map((image) => ({ type: 'image_url', image_url: fieldOf(image, 'image_url') }))
}

/** Where the parts of each type have their data or address. */
type Place = { kind: Media['kind']; field: string; data: string }
const places = new Map<unknown, Place>([
  ['image_url', { kind: 'image', field: 'image_url', data: 'url' }],
  ['input_audio', { kind: 'audio', field: 'input_audio', data: 'data' }],
  ['file', { kind: 'file', field: 'file', data: 'file_data' }],
  ['video_url', { kind: 'video', field: 'video_url', data: 'url' }],
  ['input_video', { kind: 'video', field: 'video_url', data: 'url' }],
])

/** The parts without their media, which are told. */
export const readParts = (parts: readonly unknown[], param: string, media: Media[]): unknown[] =>
  parts.map((part, at) => readPart(part, `${param}.${at}`, media))

function readPart(part: unknown, param: string, media: Media[]): unknown {
  const place = places.get(fieldOf(part, 'type'))
  if (!place || typeof part !== 'object' || part === null) return part
  const { kind, field, data } = place
  const given = fieldOf(part, field)
  // Some clients name the address only.
  const source = typeof given === 'string' ? given : fieldOf(given, data)
  const isNamed = kind === 'file' && typeof fieldOf(given, 'file_id') === 'string'
  if (typeof source !== 'string' && !isNamed) throw invalid(`${param}.${field}.${data}`, 'is missing')
  // A name says no more than an address.
  if (isNamed) media.push({ kind: 'file', isUnseen: true })
  if (typeof source !== 'string') return part
  const piece = pieceOf(source, given, place, `${param}.${field}.${data}`)
  const detail = fieldOf(given, 'detail')
  media.push({ ...piece, detail: detail === 'low' || detail === 'high' ? detail : undefined })
  // What is said in a file that is no document may be read as it is, and counts as text, too.
  if (piece.kind === 'file' && !isDocument.test(source)) return part
  return { ...part, [field]: typeof given === 'object' ? { ...given, [data]: undefined } : undefined }
}

/** What is there, by all that says it: the part's own name is only the last word. */
function pieceOf(source: string, given: unknown, { kind }: Place, param: string): Media {
  const { kinds, isOdd, isUnseen } = lookAt(source, fieldOf(given, 'filename'))
  if (isOdd) throw invalid(param, 'is not what its type says')
  const seen = kinds[0] ?? kind
  if (isUnseen) return { kind: seen, isUnseen }
  const isOther = kind !== 'file' && kinds.length > 0 && !kinds.includes(kind)
  if (isOther || (kind === 'image' && /^data:(?!image\/)/i.test(source))) throw invalid(param, `is no ${nouns[kind]}`)
  // Of a sound its part says at least the format.
  if (kind !== 'audio' && kinds.length === 0) return { kind, isUnseen: true }
  if (kind === 'file') return { kind: seen, ...sizeOf(seen, source, undefined) }
  return { kind, ...sizeOf(kind, source, fieldOf(given, 'format')) }
}

const nouns: Record<Media['kind'], string> = { image: 'picture', audio: 'sound', video: 'film', file: 'file' }

function sizeOf(kind: Media['kind'], source: string, format: unknown): MediaSize {
  if (kind === 'image') return sizeOfPicture(source)
  return kind === 'audio' ? lengthOfSound(source, format) : {}
}

/** A PDF, or an address, of which nobody knows what is there. */
const isDocument = /^(data:application\/pdf[;,]|https?:)/i
