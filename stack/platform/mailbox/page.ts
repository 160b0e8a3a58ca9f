import { createHash } from 'node:crypto'
import { html, raw } from 'hono/html'
import type { StoredMessage } from './message-store.ts'

const style = `
:root { color-scheme: light dark; --line: light-dark(#e3e5e8, #30343a); --quiet: light-dark(#5f6670, #9aa3ad);
  --back: light-dark(#fff, #16181b); --side: light-dark(#f6f7f8, #1c1f23); --mark: light-dark(#e4ecfb, #24324a);
  --accent: light-dark(#1d5fd1, #7fb0ff) }
* { box-sizing: border-box }
body { margin: 0; height: 100vh; display: grid; grid-template: auto 1fr / minmax(16rem, 24rem) 1fr;
  font: 15px/1.45 system-ui, sans-serif; background: var(--back) }
header { grid-column: 1 / -1; display: flex; align-items: center; gap: .75rem; padding: .6rem 1rem; border-bottom: 1px solid var(--line) }
h1 { font-size: 1rem; margin: 0 } h2 { font-size: 1.25rem; margin: 0 0 .5rem; overflow-wrap: anywhere }
.quiet, time { color: var(--quiet) }
button { margin-left: auto; font: inherit; padding: .25rem .75rem; border: 1px solid var(--line); border-radius: 6px; background: var(--side); cursor: pointer }
nav { overflow: auto; background: var(--side); border-right: 1px solid var(--line) }
nav a { display: block; padding: .6rem 1rem; border-bottom: 1px solid var(--line); color: inherit; text-decoration: none }
nav a[aria-current] { background: var(--mark) } nav a:focus-visible, button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px }
nav .unread strong { font-weight: 700 } nav strong { font-weight: 400 }
nav span { display: flex; justify-content: space-between; gap: .5rem; font-size: .85rem } nav span span { display: inline }
nav a > * { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; display: block } nav a > span { display: flex }
nav span span { overflow: hidden; text-overflow: ellipsis }
main { overflow: auto; padding: 1rem 1.5rem; display: flex; flex-direction: column; min-width: 0 }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: 0 0 1rem; padding-bottom: 1rem; border-bottom: 1px solid var(--line) }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
iframe { flex: 1; min-height: 20rem; border: 1px solid var(--line); border-radius: 6px; background: #fff; color-scheme: light }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: 0 } details { margin-top: .75rem } details pre { margin-top: .5rem }
.empty { margin: auto; text-align: center; color: var(--quiet) }
@media (max-width: 640px) { body { grid-template: auto 35vh 1fr / 1fr } nav { border-right: 0; border-bottom: 1px solid var(--line) } }
`

// Polls the API; a message that somebody is reading stays while the list around it changes.
const script = `
const state = (list) => list.total + ' ' + list.unread + ' ' + (list.messages[0]?.ID ?? '')
const refresh = async () => {
  const list = await (await fetch('/api/v1/messages?limit=1')).json()
  if (state(list) === document.body.dataset.state) return
  if (!new URL(location.href).searchParams.has('id')) return location.reload()
  const next = new DOMParser().parseFromString(await (await fetch(location.href)).text(), 'text/html')
  document.querySelector('nav').replaceWith(next.querySelector('nav'))
  document.querySelector('#count').replaceWith(next.querySelector('#count'))
  document.body.dataset.state = state(list)
}
setInterval(() => refresh().catch(() => {}), 2000)
document.querySelector('button').addEventListener('click', async () => {
  await fetch('/api/v1/messages', { method: 'DELETE' })
  location.assign('/')
})
`

const hash = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

export const pagePolicy = [
  `default-src 'none'; script-src ${hash(script)}; style-src ${hash(style)}; connect-src 'self'; frame-src 'self'`,
  `base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
].join('; ')

/** A mail may bring its own style and inline pictures; it runs no script, loads nothing and has no origin. */
export const mailPolicy =
  "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"

const named = ({ Name, Address }: StoredMessage['From']) => (Name ? `${Name} <${Address}>` : Address)
const time = (iso: string) => html`<time datetime="${iso}">${iso.slice(0, 19).replace('T', ' ')} UTC</time>`

const listItem = (message: StoredMessage, current: boolean) => html`
  <a href="/?id=${message.ID}" class="${message.Read ? 'read' : 'unread'}" ${current ? raw('aria-current="true"') : ''}>
    <span><span>${message.To.map(named).join(', ')}</span>${time(message.Created)}</span>
    <strong>${message.Subject || '(no subject)'}</strong>
  </a>`

const body = ({ ID, HTML, Text }: StoredMessage) => {
  if (!HTML) return html`<pre>${Text}</pre>`
  const plain = Text && html`<details><summary>Plain text</summary><pre>${Text}</pre></details>`
  return html`<iframe src="/view/${ID}.html" title="The message" sandbox="allow-popups allow-popups-to-escape-sandbox" referrerpolicy="no-referrer"></iframe>${plain}`
}

const messageView = (message: StoredMessage) => html`
  <h2>${message.Subject || '(no subject)'}</h2>
  <dl>
    <dt>From</dt><dd>${named(message.From)}</dd>
    <dt>To</dt><dd>${message.To.map(named).join(', ')}</dd>
    <dt>Date</dt><dd>${time(message.Created)}</dd>
  </dl>
  ${body(message)}`

/** The page for people. `state` must equal what the script computes from the API. */
export function mailboxPage(messages: readonly StoredMessage[], current: StoredMessage | undefined) {
  const unread = messages.filter(({ Read }) => !Read).length
  return html`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Mailbox</title><style>${raw(style)}</style></head>
<body data-state="${messages.length} ${unread} ${messages[0]?.ID ?? ''}">
<header><h1>Mailbox</h1><span id="count" class="quiet">${messages.length} messages, ${unread} unread</span><button type="button">Delete all</button></header>
<nav aria-label="Messages">${messages.map((message) => listItem(message, message === current))}</nav>
<main>${current ? messageView(current) : html`<p class="empty">No mail yet.<br>What the local stack sends appears here by itself.</p>`}</main>
<script>${raw(script)}</script>
</body>
</html>`
}
