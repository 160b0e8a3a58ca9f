// The local mailbox: everything the stack sends lands here. It speaks the part of Mailpit's API that tests use
// (https://mailpit.axllent.org/docs/api-v1/) and has a page for people.
import { randomUUID } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { z } from 'zod'
import { openMessageStore, type StoredMessage } from './mailbox/message-store.ts'
import { mailboxPage, mailPolicy, pagePolicy } from './mailbox/page.ts'

/** Addresses are plain or `Name <address>`. */
export type OutgoingMessage = { from: string; to: string | string[]; subject: string; text?: string; html?: string }

const page = z.object({
  start: z.coerce.number().int().min(0).catch(0),
  limit: z.coerce.number().int().min(0).max(500).catch(50),
})
const deletion = z.object({ IDs: z.array(z.string()).nullish() })

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function parseAddress(text: string): StoredMessage['From'] {
  const [, name = '', address = text] = /^\s*(.*?)\s*<([^<>]+)>\s*$/.exec(text) ?? []
  return { Name: name.replace(/^"(.*)"$/, '$1'), Address: address.trim() }
}

function snippetOf({ Text, HTML }: StoredMessage): string {
  const text = Text || HTML.replace(/<(style|script|head)\b.*?<\/\1\s*>/gis, ' ').replace(/<[^>]*>/g, ' ')
  return text.replace(/\s+/g, ' ').trim().slice(0, 250)
}

/** The fields that Mailpit's list and its single message share. */
const envelope = ({ ID, From, To, Subject, Text, HTML }: StoredMessage) => ({
  ID,
  MessageID: `${ID}@mailbox.localhost`,
  From,
  To,
  Cc: [],
  Bcc: [],
  ReplyTo: [],
  Subject,
  Tags: [],
  Size: Buffer.byteLength(Subject + Text + HTML),
})

const summary = (message: StoredMessage) => ({
  ...envelope(message),
  Read: message.Read,
  Created: message.Created,
  Attachments: 0,
  Snippet: snippetOf(message),
})

const details = (message: StoredMessage) => ({
  ...envelope(message),
  ReturnPath: message.From.Address,
  Date: message.Created,
  Text: message.Text,
  HTML: message.HTML,
  Inline: [],
  Attachments: [],
})

function listing(c: Context, all: readonly StoredMessage[], matching: readonly StoredMessage[]) {
  const { start, limit } = page.parse(c.req.query())
  const messages = matching.slice(start, start + limit).map(summary)
  const unread = (list: readonly StoredMessage[]) => list.filter(({ Read }) => !Read).length
  return c.json({
    total: all.length,
    unread: unread(all),
    count: messages.length,
    messages_count: matching.length,
    messages_unread: unread(matching),
    start,
    tags: [],
    messages,
  })
}

/** Refuses a name that an attacker's DNS could point at this machine. */
function isLoopback(host: string): boolean {
  const url = URL.parse(`http://${host}`)
  return (
    url !== null &&
    url.host === host.toLowerCase().replace(/:80$/, '') &&
    /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname)
  )
}

const secure = {
  'content-security-policy': pagePolicy,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
}

export function createMailbox(options: { file?: string; log?(line: string): void } = {}) {
  const store = openMessageStore(options.file, options.log)
  const find = (id: string) => store.all().find(({ ID }, index) => ID === id || (id === 'latest' && index === 0))
  const missing = (c: Context) => c.json({ Error: 'Message not found' }, 404)
  const app = new Hono()

  app.use(async (c, next) => {
    if (!isLoopback(c.req.header('host') ?? new URL(c.req.url).host)) return c.text('This mailbox is local.\n', 403)
    await next()
    for (const [name, value] of Object.entries(secure)) if (!c.res.headers.has(name)) c.header(name, value)
  })

  app.get('/api/v1/messages', (c) => listing(c, store.all(), store.all()))
  app.get('/api/v1/search', (c) => {
    const query = c.req.query('query')?.trim()
    return query ? listing(c, store.all(), search(store.all(), query)) : c.json({ Error: 'no search query' }, 400)
  })
  app.get('/api/v1/message/:id', (c) => {
    const message = find(c.req.param('id'))
    if (!message) return missing(c)
    store.markRead(message)
    return c.json(details(message))
  })
  app.delete('/api/v1/messages', async (c) => {
    const body = deletion.safeParse(parseJson((await c.req.text()) || '{}'))
    if (!body.success) return c.json({ Error: 'The body must be {"IDs":[...]} or empty' }, 400)
    store.remove(body.data.IDs?.length ? body.data.IDs : null)
    return c.text('ok')
  })

  app.get('/', (c) => {
    const current = find(c.req.query('id') ?? 'latest')
    if (current) store.markRead(current)
    return c.html(mailboxPage(store.all(), current && find(current.ID)))
  })
  app.get('/view/:name{.+\\.html}', (c) => {
    const message = find(c.req.param('name').replace(/\.html$/, ''))
    if (!message) return missing(c)
    return c.html(`${message.HTML}<base target="_blank">`, 200, { 'content-security-policy': mailPolicy })
  })

  return {
    /** Answers the id under which the message can be read. */
    deliver: async (message: OutgoingMessage): Promise<string> => {
      const ID = randomUUID()
      store.add({
        ID,
        From: parseAddress(message.from),
        To: [message.to].flat().map(parseAddress),
        Subject: message.subject,
        Created: new Date().toISOString(),
        Read: false,
        Text: message.text ?? '',
        HTML: message.html ?? '',
      })
      return ID
    },
    fetch: (request: Request): Response | Promise<Response> => app.fetch(request),
    close: (): void => store.close(),
  }
}

type Addresses = StoredMessage['To']
const joined = (addresses: Addresses) => addresses.map(({ Name, Address }) => `${Name} <${Address}>`).join(', ')

function fieldOf(message: StoredMessage, field: string | undefined): string {
  if (field === 'to') return joined(message.To)
  if (field === 'from') return joined([message.From])
  if (field === 'subject') return message.Subject
  return [joined([message.From]), joined(message.To), message.Subject, message.Text, message.HTML].join('\n')
}

/** `to:a@example.com subject:"two words" free text`: every term must be contained, in any case. */
function search(messages: readonly StoredMessage[], query: string): StoredMessage[] {
  const terms = [...query.matchAll(/(?:(to|from|subject):)?(?:"([^"]*)"|(\S+))/gi)].map(([, field, quoted, plain]) => ({
    field: field?.toLowerCase(),
    text: (quoted ?? plain ?? '').toLowerCase(),
  }))
  return messages.filter((message) =>
    terms.every(({ field, text }) => fieldOf(message, field).toLowerCase().includes(text)),
  )
}
