/** The frame of the stand-in's pages: no scripts, one style, forms only to ourselves. */
import { createHash } from 'node:crypto'
import { html, raw } from 'hono/html'

const style = `
:root { color-scheme: light dark; --line: light-dark(#e3e5e8, #30343a); --quiet: light-dark(#5f6670, #9aa3ad);
  --back: light-dark(#f6f7f8, #16181b); --card: light-dark(#fff, #1c1f23); --accent: light-dark(#1d5fd1, #7fb0ff);
  --on-accent: light-dark(#fff, #10151c); --bad: light-dark(#b42318, #ff9b8f) }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; font: 16px/1.5 system-ui, sans-serif; background: var(--back); padding: 0 1rem 3rem }
.note { margin: 0 -1rem 2rem; padding: .5rem 1rem; text-align: center; font-size: .85rem; color: var(--quiet); border-bottom: 1px solid var(--line) }
main { max-width: 34rem; margin: 0 auto; padding: 1.5rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px }
h1 { font-size: 1.25rem; margin: 0 0 .25rem } h2 { font-size: 1rem; margin: 1.75rem 0 .5rem }
.amount { font-size: 2rem; font-weight: 650; margin: 0 0 1rem } .quiet { color: var(--quiet) } .error { color: var(--bad); font-weight: 600 }
ul { list-style: none; margin: 0 0 1rem; padding: 0 } li { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .25rem 1rem; padding: .6rem 0; border-bottom: 1px solid var(--line) }
fieldset { border: 1px solid var(--line); border-radius: 8px; padding: .25rem .75rem; margin: 0 0 1rem } legend { padding: 0 .35rem; color: var(--quiet) }
label.way { display: flex; gap: .6rem; align-items: baseline; padding: .45rem 0; cursor: pointer }
form.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: end; margin: .5rem 0 } form { margin: 0 }
button, select { font: inherit; padding: .5rem 1rem; border-radius: 8px; border: 1px solid var(--line); background: var(--card); color: inherit; cursor: pointer }
select { max-width: 100% } li span { overflow-wrap: anywhere }
form.row label { min-width: 0; max-width: 100% }
button.main { width: 100%; background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600 }
button.second { width: 100%; margin-top: .5rem } a { color: var(--accent) }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
`
const styleHash = createHash('sha256').update(style).digest('base64')

export type Html = ReturnType<typeof html>

/** `leadsTo`: where a form's answer may redirect; browsers apply form-action to redirects, too. */
export function page(
  title: string,
  content: Html | Promise<Html>,
  leadsTo: (string | null)[] = [],
  status: 200 | 404 | 409 = 200,
): Response {
  const targets = ["'self'", ...leadsTo.flatMap(originOf)].join(' ')
  const policy = `default-src 'none'; style-src 'sha256-${styleHash}'; form-action ${targets}; base-uri 'none'; frame-ancestors 'none'`
  const body = html`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${title}</title><style>${raw(style)}</style></head>
<body>
<p class="note" role="note">Palisade's local stand-in for Stripe: no real card, no real money.</p>
<main>${content}</main>
</body>
</html>`
  const headers = {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': policy,
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    'cache-control': 'no-store',
  }
  return new Response(String(body), { status, headers })
}

const originOf = (url: string | null) => (url !== null && URL.canParse(url) ? [new URL(url).origin] : [])

export const redirect = (location: string) =>
  new Response(null, { status: 303, headers: { location, 'referrer-policy': 'no-referrer' } })

export const date = (seconds: number) => {
  const iso = new Date(seconds * 1000).toISOString()
  return html`<time datetime="${iso}">${iso.slice(0, 10)}</time>`
}

export const notFound = () =>
  page(
    'Not found',
    html`<h1>There is no such page</h1><p>The link may belong to another stack, or to one that was reset.</p>`,
    [],
    404,
  )

/** The page of 3-D Secure: the bank's question, with the two answers that there are. */
export const challengePage = (action: string, leadsTo: (string | null)[], hidden: Html = html``) =>
  page(
    '3-D Secure',
    html`<h1>Your bank asks: is this you?</h1>
<p class="quiet">3-D Secure, as the bank's page would ask it.</p>
<form method="post" action="${action}">${hidden}
<button class="main" name="answer" value="ok">Yes, complete the payment</button>
<button class="second" name="answer" value="failed">No, refuse it</button></form>`,
    leadsTo,
  )
