/** Reads a mail as SMTP brings it (RFC 5322, MIME) into what the mailbox shows: subject, text, HTML. Attachments are left out. */

type ParsedMail = { from: string; subject: string; text: string; html: string }

type Part = { headers: Map<string, string>; body: string }

/** `raw` holds bytes as characters (latin1), so that each part is decoded by its own charset. */
export function parseMail(raw: string): ParsedMail {
  const message = parsePart(raw)
  const found = { text: '', html: '' }
  collect(message, found, 0)
  const header = (name: string) => decodeWords(message.headers.get(name) ?? '')
  return { from: header('from'), subject: header('subject'), ...found }
}

function parsePart(raw: string): Part {
  const [, head = '', body = ''] = /^(?:|([\s\S]*?)\r?\n)\r?\n([\s\S]*)$/.exec(raw) ?? ['', raw, '']
  const headers = new Map<string, string>()
  for (const line of head.replaceAll(/\r?\n[ \t]+/g, ' ').split(/\r?\n/)) {
    const [, name = '', value = ''] = /^([^:\s]+):\s*(.*)$/.exec(line) ?? []
    if (name) headers.set(name.toLowerCase(), value)
  }
  return { headers, body }
}

function collect(part: Part, found: { text: string; html: string }, depth: number): void {
  const type = part.headers.get('content-type') ?? 'text/plain'
  const boundary = /boundary="?([^";]+)"?/i.exec(type)?.[1]
  if (/^multipart\//i.test(type) && boundary && depth < 5) {
    const pieces = part.body.split(new RegExp(`(?:^|\\r?\\n)--${escapePattern(boundary)}`)).slice(1)
    for (const piece of pieces)
      if (!piece.startsWith('--')) collect(parsePart(piece.replace(/^[ \t]*\r?\n/, '')), found, depth + 1)
    return
  }
  if (/^attachment/i.test(part.headers.get('content-disposition') ?? '')) return
  const text = decodeBody(part, /charset="?([^";\s]+)"?/i.exec(type)?.[1] ?? 'utf-8')
  if (/^text\/html/i.test(type)) found.html ||= text
  else if (/^text\//i.test(type)) found.text ||= text
}

function decodeBody({ headers, body }: Part, charset: string): string {
  const encoding = (headers.get('content-transfer-encoding') ?? '').trim().toLowerCase()
  const bytes =
    encoding === 'base64'
      ? Buffer.from(body, 'base64')
      : Buffer.from(encoding === 'quoted-printable' ? unquote(body.replaceAll(/=\r?\n/g, '')) : body, 'latin1')
  return decode(bytes, charset).replaceAll('\r\n', '\n')
}

/** Encoded words (RFC 2047), such as `=?UTF-8?Q?Gr=C3=BC=C3=9Fe?=`. */
function decodeWords(text: string): string {
  return text
    .replaceAll(/(=\?[^?]+\?[bq]\?[^?]*\?=)\s+(?==\?)/gi, '$1')
    .replaceAll(/=\?([^?]+)\?([bq])\?([^?]*)\?=/gi, (_word, charset: string, kind: string, value: string) =>
      decode(
        kind.toLowerCase() === 'b'
          ? Buffer.from(value, 'base64')
          : Buffer.from(unquote(value.replaceAll('_', ' ')), 'latin1'),
        charset,
      ),
    )
}

const unquote = (text: string) =>
  text.replaceAll(/=([0-9a-f]{2})/gi, (_code, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))

const escapePattern = (text: string) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')

function decode(bytes: Uint8Array, charset: string): string {
  try {
    return new TextDecoder(charset).decode(bytes)
  } catch {
    return new TextDecoder('latin1').decode(bytes)
  }
}
