/** The page behind the link in a mail about a change: looking changes nothing, and only a press of the button does something. */
import { expect, test } from 'vitest'
import type { Change } from '../../functions/_shared/account/account-database.ts'
import { type AccountWorld, handleAccountRequest } from '../../functions/_shared/account/handle-account-request.ts'
import { AppError } from '../../functions/_shared/errors.ts'

const token = `${'aB3-_'.repeat(8)}xyz`
const change: Change = {
  state: 'open',
  change: 'api_key_created',
  title: 'A <key> was made',
  undo: 'It is "revoked".',
  changed_at: '2026-11-30T12:34:56.789+00:00',
  expires_at: '2026-12-03T12:34:56.789+00:00',
}

/** What was asked of the database, and what was logged. */
function newWorld() {
  const asked: string[] = []
  const lines: Record<string, unknown>[] = []
  const known = (act: string, state: Change['state']) => async (given: string) => {
    asked.push(act)
    if (given !== token) throw new AppError('not_found', { message: 'This link is unknown, or long over.' })
    return { ...change, state }
  }
  const database = { show: known('show', 'open'), undo: known('undo', 'undone') }
  const world: AccountWorld = { database, now: Date.now, newId: () => 'req', log: (line) => lines.push(line) }
  const send = (path: string, init?: RequestInit) =>
    handleAccountRequest(new Request(`https://functions.test${path}`, init), world)
  return { asked, lines, send }
}

const form = (of: string): RequestInit => ({ method: 'POST', body: new URLSearchParams({ token: of }) })
const json = (body: unknown): RequestInit => ({
  method: 'POST',
  body: JSON.stringify(body),
  headers: { 'content-type': 'application/json' },
})

test('a look at it says what will happen, with one button, and changes nothing', async () => {
  const { asked, send } = newWorld()

  const answer = await send(`/account/undo?token=${token}`)
  const page = await answer.text()

  expect(answer.status).toBe(200)
  expect(asked).toEqual(['show'])
  expect(page).toContain('A &lt;key&gt; was made')
  expect(page).toContain('It is &quot;revoked&quot;.')
  expect(page).toContain('2026-11-30 12:34 UTC')
  expect(page.match(/<form method="post" action="undo">.*?<\/form>/)?.[0]).toContain(`value="${token}"`)
})

test('loads nothing, runs nothing, is in no frame and no cache, and tells nobody its address', async () => {
  const { headers } = await newWorld().send(`/account/undo?token=${token}`)

  expect(headers.get('content-type')).toBe('text/html; charset=utf-8')
  expect(headers.get('content-security-policy')).toMatch(/^default-src 'none';.*frame-ancestors 'none'$/)
  expect(headers.get('referrer-policy')).toBe('no-referrer')
  expect(headers.get('cache-control')).toBe('no-store')
})

test('the button acts, and the page then has none', async () => {
  const { asked, lines, send } = newWorld()

  const page = await (await send('/account/undo', form(token))).text()

  expect(asked).toEqual(['undo'])
  expect(page).toContain('This is done.')
  expect(page).not.toContain('<form')
  expect(JSON.stringify(lines)).not.toContain(token)
})

test('an app with a page of its own has the same as JSON', async () => {
  const { send } = newWorld()

  const shown = await send(`/account/undo?token=${token}`, { headers: { accept: 'application/json' } })
  const done = await send('/account/undo', json({ token }))

  expect(await shown.json()).toEqual(change)
  expect(await done.json()).toEqual({ ...change, state: 'undone' })
})

test.each(['HEAD', 'PUT', 'DELETE'])('%s does nothing', async (method) => {
  const { asked, send } = newWorld()

  expect((await send(`/account/undo?token=${token}`, { method })).status).toBe(405)
  expect(asked).toEqual([])
})

test.each([
  ['without a token', '/account/undo', undefined, 404, []],
  ['of another form', `/account/undo?token=${token}x`, undefined, 404, []],
  ['of nobody', `/account/undo?token=${'x'.repeat(43)}`, undefined, 404, ['show']],
  ['of nobody, pressed', '/account/undo', form('x'.repeat(43)), 404, ['undo']],
  ['with a large body', '/account/undo', form('x'.repeat(2_000)), 413, []],
  ['with another field', '/account/undo', json({ token, more: 1 }), 400, []],
  ['at another path', '/account/undo/', undefined, 404, []],
])('a link %s is refused', async (_, path, init, status, asks) => {
  const { asked, send } = newWorld()

  const answer = await send(path, init)

  expect(answer.status).toBe(status)
  expect(asked).toEqual(asks)
})
