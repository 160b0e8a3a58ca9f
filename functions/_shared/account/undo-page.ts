/** The page behind the link in a mail about a change: plain HTML without scripts, which loads nothing and sends its address nowhere. */
import type { Change } from './account-database.ts'

const frozen =
  'Your account is frozen: all its sessions and API keys end, until the people who run this service have spoken with you. Nobody is signed in.'

const said: Record<Exclude<Change['state'], 'open'>, string> = {
  undone: 'This is done. The account is frozen; nobody was signed in.',
  used: 'This link was used before. Nothing was changed now.',
  expired:
    'This link is too old. Nothing was changed. Sign in, look at your account, and ask for help if it is not as you left it.',
}

export function undoPage(change: Change, token: string): string {
  const heading = `<h1>${escaped(change.title)}</h1><p>${escaped(moment(change.changed_at))}</p>`
  if (change.state !== 'open') return page(change.title, `${heading}<p>${escaped(said[change.state])}</p>`)
  const button = `<form method="post" action="undo"><input type="hidden" name="token" value="${escaped(token)}"><button>This was not me: undo it</button></form>`
  return page(
    change.title,
    `${heading}<p>If this was you, close this page. If not, press the button:</p><ul><li>${escaped(change.undo)}</li><li>${escaped(frozen)}</li></ul>${button}`,
  )
}

export const failurePage = (message: string): string =>
  page('This did not work', `<h1>This did not work</h1><p>${escaped(message)}</p>`)

const style =
  'body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1rem}'

const page = (title: string, body: string): string =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title><style>${style}</style>${body}</html>`

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => entities[character] ?? '')

const moment = (time: string): string => `${new Date(time).toISOString().slice(0, 16).replace('T', ' ')} UTC`
