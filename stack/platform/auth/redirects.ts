/** Where a link in a mail leads back to: the project's site, or an address that the settings allow. */
import type { AuthCall, AuthWorld } from './world.ts'

export function redirectTarget(world: AuthWorld, call: AuthCall): string {
  const asked = call.url.searchParams.get('redirect_to') ?? ''
  return isAllowed(world, asked) ? asked : world.urls.site
}

function isAllowed(world: AuthWorld, target: string): boolean {
  if (!URL.canParse(target)) return false
  const { protocol, hostname } = new URL(target)
  const isWeb = protocol === 'http:' || protocol === 'https:'
  if (isWeb && hostname === new URL(world.urls.site).hostname) return true
  return world.settings.additional_redirect_urls.some((pattern) => globMatches(pattern, target))
}

/** `*` stands for anything but dot and slash, `**` for anything, `?` for one character that is neither. */
function globMatches(pattern: string, target: string): boolean {
  const source = pattern.replace(/\*\*|\*|\?|[.+^${}()|[\]\\]/g, (part) => {
    if (part === '**') return '.*'
    if (part === '*') return '[^./]*'
    return part === '?' ? '[^./]' : `\\${part}`
  })
  return new RegExp(`^${source}$`).test(target)
}

type Fields = Record<string, string | number>

const redirect = (url: URL) => new Response(null, { status: 303, headers: { location: url.href } })

const encode = (fields: Fields) =>
  new URLSearchParams(Object.entries(fields).map(([name, value]): [string, string] => [name, String(value)])).toString()

/** To the site with the answer after `#`, where no server sees it. */
export function redirectWithFragment(target: string, fields: Fields): Response {
  const url = new URL(target)
  url.hash = encode(fields)
  return redirect(url)
}

/** To the site with the answer in the query, for clients that exchange a code. */
export function redirectWithQuery(target: string, fields: Fields): Response {
  const url = new URL(target)
  for (const [name, value] of Object.entries(fields)) url.searchParams.set(name, String(value))
  return redirect(url)
}
