import { appendFileSync, chmodSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { z } from 'zod'

const address = z.object({ Name: z.string(), Address: z.string() })
const storedMessage = z.object({
  ID: z.string(),
  From: address,
  To: z.array(address),
  Subject: z.string(),
  Created: z.string(),
  Read: z.boolean(),
  Text: z.string(),
  HTML: z.string(),
})
const line = z.union([
  z.object({ add: storedMessage }),
  z.object({ read: z.string() }),
  z.object({ delete: z.array(z.string()).nullable() }), // null: all
])

export type StoredMessage = z.infer<typeof storedMessage>
type Line = z.infer<typeof line>

const messagesKept = 500

function apply(messages: StoredMessage[], entry: Line): StoredMessage[] {
  if ('add' in entry) return [entry.add, ...messages].slice(0, messagesKept)
  if ('read' in entry)
    return messages.map((message) => (message.ID === entry.read ? { ...message, Read: true } : message))
  return messages.filter(({ ID }) => entry.delete !== null && !entry.delete.includes(ID))
}

/** Skips what cannot be read, such as a last line cut off by a crash. */
function parseLine(text: string): Line[] {
  try {
    return [line.parse(JSON.parse(text))]
  } catch {
    return []
  }
}

/**
 * Messages, newest first; with a file, an append-only NDJSON log that only its owner can read and that is rewritten when it is
 * mostly history. What cannot be written, as on a full disk, stays in memory and is written as soon as it can be.
 */
export function openMessageStore(file?: string, log: (line: string) => void = () => {}) {
  let messages: StoredMessage[] = []
  let lines = 0
  let isBehind = false

  const rewrite = () => {
    if (file === undefined) return
    const text = messages.toReversed().map((message) => `${JSON.stringify({ add: message })}\n`)
    writeFileSync(`${file}.new`, text.join(''), { mode: 0o600 })
    chmodSync(`${file}.new`, 0o600) // The mode above is ignored when the file was left behind by a crash.
    renameSync(`${file}.new`, file)
    lines = messages.length
  }

  const change = (entry: Line) => {
    messages = apply(messages, entry)
    if (file === undefined) return
    write(() => {
      // Of a line that was cut off only the whole file gets rid.
      if (isBehind || lines > 3 * messagesKept) return rewrite()
      appendFileSync(file, `${JSON.stringify(entry)}\n`, { mode: 0o600 })
      lines += 1
    })
  }

  const write = (act: () => void) => {
    try {
      act()
      isBehind = false
    } catch (error) {
      if (!isBehind)
        log(`mailbox: ${error instanceof Error ? error.message : error}; mails are kept in memory meanwhile`)
      isBehind = true
    }
  }

  if (file !== undefined) {
    mkdirSync(dirname(file), { recursive: true })
    const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
    messages = text.split('\n').flatMap(parseLine).reduce(apply, messages)
    write(rewrite)
  }

  return {
    all: (): readonly StoredMessage[] => messages,
    add: (message: StoredMessage) => change({ add: message }),
    markRead: ({ ID, Read }: StoredMessage) => {
      if (!Read) change({ read: ID })
    },
    /** Without ids: everything. */
    remove: (ids: string[] | null) => change({ delete: ids }),
    close(): void {
      if (isBehind) write(rewrite)
    },
  }
}
