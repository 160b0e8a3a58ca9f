import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { z } from 'zod'
import { createMailbox } from '../../stack/platform/mailbox.ts'

const folder = mkdtempSync(join(tmpdir(), 'mailbox-'))
afterAll(() => rmSync(folder, { recursive: true }))

type Mailbox = ReturnType<typeof createMailbox>
const list = z.looseObject({
  total: z.number(),
  messages: z.array(z.looseObject({ ID: z.string(), Subject: z.string() })),
})

const mail = (subject: string, more: object = {}) => ({
  from: 'Palisade <no-reply@palisade.test>',
  to: 'ada@example.com',
  subject,
  text: `Text of ${subject}`,
  ...more,
})
const get = async (mailbox: Mailbox, path: string, init: RequestInit = {}) =>
  mailbox.fetch(new Request(`http://127.0.0.1:54324${path}`, init))
const subjects = async (mailbox: Mailbox, path = '/api/v1/messages') =>
  list.parse(await (await get(mailbox, path)).json()).messages.map(({ Subject }) => Subject)

test.each(['evil.example', 'localhost.evil.example:54324', '127.0.0.1.evil.example', '10.0.0.1', 'evil@localhost', ''])(
  'a request for host "%s" is refused, so that no web page reads the mail by DNS rebinding',
  async (host) => {
    const answer = await get(createMailbox(), '/api/v1/messages', { headers: { host } })

    expect(answer.status).toBe(403)
  },
)

test.each(['localhost', 'localhost:54324', '127.0.0.1:54324', '[::1]:54324'])(
  'a request for host "%s" is answered',
  async (host) => {
    const answer = await get(createMailbox(), '/api/v1/messages', { headers: { host } })

    expect(answer.status).toBe(200)
  },
)

test('a message that is not there is 404', async () => {
  const answers = await Promise.all(
    ['/api/v1/message/none', '/api/v1/message/latest', '/view/none.html'].map((path) => get(createMailbox(), path)),
  )

  expect(answers.map(({ status }) => status)).toEqual([404, 404, 404])
})

test.each(['noise', '[]', '{"IDs":"all"}'])('a deletion with the body %s deletes nothing', async (body) => {
  const mailbox = createMailbox()
  await mailbox.deliver(mail('kept'))

  const answer = await get(mailbox, '/api/v1/messages', { method: 'DELETE', body })

  expect(answer.status).toBe(400)
  expect(await subjects(mailbox)).toEqual(['kept'])
})

test('what is delivered is listed in the shape of Mailpit', async () => {
  const mailbox = createMailbox()
  const ID = await mailbox.deliver(mail('Confirm', { to: ['"Ada L." <ada@example.com>', 'bob@example.com'] }))

  const answer = await (await get(mailbox, '/api/v1/messages')).json()

  expect(answer).toMatchObject({ total: 1, unread: 1, count: 1, messages_count: 1, start: 0 })
  expect(answer).toMatchObject({
    messages: [
      {
        ID,
        Read: false,
        Subject: 'Confirm',
        Snippet: 'Text of Confirm',
        Attachments: 0,
        Size: 22,
        Cc: [],
        Bcc: [],
        Tags: [],
        MessageID: expect.stringContaining('@'),
        From: { Name: 'Palisade', Address: 'no-reply@palisade.test' },
        To: [
          { Name: 'Ada L.', Address: 'ada@example.com' },
          { Name: '', Address: 'bob@example.com' },
        ],
      },
    ],
  })
})

test('the list is newest first and read in pages', async () => {
  const mailbox = createMailbox()
  for (const subject of ['one', 'two', 'three']) await mailbox.deliver(mail(subject))

  expect(await subjects(mailbox)).toEqual(['three', 'two', 'one'])
  expect(await subjects(mailbox, '/api/v1/messages?start=1&limit=1')).toEqual(['two'])
})

test('a message is read by its id or as the latest, and is then marked as read', async () => {
  const mailbox = createMailbox()
  const ID = await mailbox.deliver(mail('Hello', { html: '<b>Hello</b>' }))

  const byId = await (await get(mailbox, `/api/v1/message/${ID}`)).json()
  const latest = await (await get(mailbox, '/api/v1/message/latest')).json()

  expect(byId).toMatchObject({ ID, Subject: 'Hello', Text: 'Text of Hello', HTML: '<b>Hello</b>', Attachments: [] })
  expect(latest).toEqual(byId)
  expect(await (await get(mailbox, '/api/v1/messages')).json()).toMatchObject({ total: 1, unread: 0 })
})

test('a search finds by recipient, by subject and by words, and all terms must hold', async () => {
  const mailbox = createMailbox()
  await mailbox.deliver(mail('Reset your password'))
  await mailbox.deliver(mail('Reset your password', { to: 'bob@example.com', text: 'Code 123456' }))
  await mailbox.deliver(mail('Welcome', { to: 'bob@example.com' }))
  const found = async (query: string) =>
    (await subjects(mailbox, `/api/v1/search?query=${encodeURIComponent(query)}`)).length

  expect(await found('to:BOB@example.com')).toBe(2)
  expect(await found('subject:"reset your"')).toBe(2)
  expect(await found('to:bob@example.com subject:reset')).toBe(1)
  expect(await found('123456')).toBe(1)
  expect(await found('to:eve@example.com')).toBe(0)
})

test('some messages are deleted by id, all without ids', async () => {
  const mailbox = createMailbox()
  const ID = await mailbox.deliver(mail('one'))
  for (const subject of ['two', 'three']) await mailbox.deliver(mail(subject))

  await get(mailbox, '/api/v1/messages', { method: 'DELETE', body: JSON.stringify({ IDs: [ID] }) })
  const some = await subjects(mailbox)
  await get(mailbox, '/api/v1/messages', { method: 'DELETE' })

  expect(some).toEqual(['three', 'two'])
  expect(await subjects(mailbox)).toEqual([])
})

test('messages, deletions and what was read survive a restart, even with a line cut off by a crash', async () => {
  const file = join(folder, 'data', 'mail.ndjson')
  const before = createMailbox({ file })
  const gone = await before.deliver(mail('gone'))
  await before.deliver(mail('kept'))
  await get(before, '/api/v1/messages', { method: 'DELETE', body: JSON.stringify({ IDs: [gone] }) })
  await get(before, '/api/v1/message/latest')
  appendFileSync(file, '{"add":{"ID":"cut')

  const after = createMailbox({ file })
  await after.deliver(mail('new'))

  expect(await subjects(createMailbox({ file }))).toEqual(['new', 'kept'])
  expect(await (await get(after, '/api/v1/messages')).json()).toMatchObject({ total: 2, unread: 1 })
})

test('only the owner can read the file', async () => {
  const file = join(folder, 'mode.ndjson')
  await createMailbox({ file }).deliver(mail('secret'))
  const fresh = statSync(file).mode & 0o777
  createMailbox({ file })

  expect([fresh, statSync(file).mode & 0o777]).toEqual([0o600, 0o600])
})

test('the newest 500 messages are kept, and the file does not grow without end', async () => {
  const file = join(folder, 'many.ndjson')
  const mailbox = createMailbox({ file })
  for (let index = 1; index <= 1600; index++) await mailbox.deliver(mail(`number ${index}`))

  const kept = await subjects(mailbox, '/api/v1/messages?limit=500')

  expect(await (await get(mailbox, '/api/v1/messages')).json()).toMatchObject({ total: 500 })
  expect([kept[0], kept.at(-1)]).toEqual(['number 1600', 'number 1101'])
  expect(readFileSync(file, 'utf8').split('\n').length).toBeLessThan(1000)
})

test('the page escapes everything that came by mail', async () => {
  const mailbox = createMailbox()
  const evil = '<script>alert(1)</script>"\'&'
  const ID = await mailbox.deliver(mail(evil, { from: `${evil} <a@b.c>`, to: `"${evil}" <c@d.e>`, text: evil }))

  const page = await (await get(mailbox, `/?id=${ID}`)).text()

  expect(page).not.toContain('<script>alert')
  expect(page.split('&lt;script&gt;alert(1)').length).toBeGreaterThan(4)
})

test('the page runs and loads only what its policy names by hash', async () => {
  const mailbox = createMailbox()
  const answer = await get(mailbox, '/')
  const policy = answer.headers.get('content-security-policy')

  expect(policy).toMatch(/^default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+';/)
  expect(policy).not.toContain('unsafe')
  expect(await answer.text()).not.toMatch(/https?:|\son[a-z]+=|\sstyle=/)
  expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
})

test('HTML mail is shown in a sandbox without scripts, origin or network', async () => {
  const mailbox = createMailbox()
  const ID = await mailbox.deliver(mail('html', { html: '<h1>Hi</h1><script>alert(1)</script>' }))

  const page = await (await get(mailbox, '/')).text()
  const view = await get(mailbox, `/view/${ID}.html`)
  const policy = view.headers.get('content-security-policy')

  expect(page).toContain(`<iframe src="/view/${ID}.html"`)
  expect(page).toMatch(/sandbox="(?!.*(allow-scripts|allow-same-origin))/)
  expect(policy).toMatch(/^default-src 'none';.*; sandbox (?!.*(allow-scripts|allow-same-origin))/)
  expect(await view.text()).toContain('<h1>Hi</h1>')
})

test('mails that cannot be written are there, and are written when it is possible again', async () => {
  const file = join(folder, 'blocked.ndjson')
  const logs: string[] = []
  const mailbox = createMailbox({ file, log: (line) => logs.push(line) })
  await mailbox.deliver(mail('before'))
  rmSync(file)
  // What a full disk does to a write, a folder in its place does, too.
  mkdirSync(file)
  for (const subject of ['one', 'two']) await mailbox.deliver(mail(subject))

  expect(await subjects(mailbox)).toEqual(['two', 'one', 'before'])
  expect((await get(mailbox, '/api/v1/message/latest')).status).toBe(200)
  expect(logs).toEqual([expect.stringMatching(/^mailbox: EISDIR.*kept in memory meanwhile$/)])

  rmdirSync(file)
  mailbox.close()
  expect(await subjects(createMailbox({ file }))).toEqual(['two', 'one', 'before'])
})
