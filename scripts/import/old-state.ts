/** What other systems say of an account's state: whether its owner was let in. Who was not is suspended here, too. */
import { z } from 'zod'

/** A key as its words alone: `accountEnabled`, `is_active` and `Is-Active` are one name each. */
export const plainName = (key: string) =>
  key
    .toLowerCase()
    .replace(/[^a-z0-9]/g, '')
    .replace(/^is(?=[a-z])/, '')

/** Firebase, Entra: disabled. Auth0: blocked. Clerk: banned, locked. */
const shutWhenTrue = ['disabled', 'blocked', 'banned', 'locked', 'suspended', 'accountdisabled', 'accountlocked']
/** Cognito, Keycloak, Entra: enabled. SCIM, Django: active. */
const shutWhenFalse = ['enabled', 'accountenabled', 'active']
/** Supabase: banned_until. */
const shutUntil = ['banneduntil', 'blockeduntil', 'lockeduntil', 'suspendeduntil']
/** Cognito: UserStatus. Okta: status. */
const statuses = ['status', 'userstatus', 'accountstatus']
const deletions = ['deleted', 'deletedat']

const shut = `suspended disabled blocked banned locked lockedout deactivated deprovisioned inactive archived compromised terminated closed`
const open = `active enabled confirmed unconfirmed verified unverified pending invited registered normal ok staged provisioned recovery
  passwordexpired externalprovider unknown resetrequired forcechangepassword`
const [shutStatuses, openStatuses] = [new Set(shut.split(' ')), new Set(open.split(/\s+/))]

export const stateNames = new Set([...shutWhenTrue, ...shutWhenFalse, ...shutUntil, ...statuses, ...deletions])

const flag = z.union([z.boolean(), z.stringbool(), z.literal([0, 1]).transform((value) => value === 1)])

export type OldState = { suspended: string | undefined } | { refused: string }

/** Whether the row says that its owner may not sign in, and by which field. What it says in other words is refused: nobody is let in by a guess. */
export function oldState(fields: Record<string, unknown>, now = new Date()): OldState {
  let suspended: string | undefined
  for (const [key, value] of Object.entries(fields)) {
    const name = plainName(key)
    if (value === null || value === '' || !stateNames.has(name)) continue
    const state = stateIn(name, value, now)
    if (state === 'unclear') return { refused: `${key}: says neither that the account is open nor that it is not` }
    if (state === 'deleted') return { refused: `${key}: the account was deleted` }
    if (state === 'suspended') suspended ??= said(key, value)
  }
  return { suspended }
}

type State = 'open' | 'suspended' | 'deleted' | 'unclear'

function stateIn(name: string, value: unknown, now: Date): State {
  if (name === 'deletedat') return 'deleted'
  if (shutUntil.includes(name)) return untilState(value, now)
  if (statuses.includes(name)) {
    const status = typeof value === 'string' ? value.toLowerCase().replace(/[^a-z]/g, '') : ''
    if (status === 'deleted') return 'deleted'
    return shutStatuses.has(status) ? 'suspended' : openStatuses.has(status) ? 'open' : 'unclear'
  }
  const parsed = flag.safeParse(value)
  if (!parsed.success) return 'unclear'
  if (shutWhenFalse.includes(name)) return parsed.data ? 'open' : 'suspended'
  if (!parsed.data) return 'open'
  return name === 'deleted' ? 'deleted' : 'suspended'
}

/** ISO, as PostgreSQL and Rails write it too: a space for the T, a short zone or the word, or none. */
const moment = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?) ?(Z|UTC|[+-]\d\d(?::?\d\d)?)?)?$/i

/** A ban until a moment that has passed is over. Without a zone it is UTC, wherever the import runs. */
function untilState(value: unknown, now: Date): State {
  const text = typeof value === 'number' || typeof value === 'string' ? String(value).trim() : ''
  if (text.toLowerCase() === 'infinity') return 'suspended'
  // Nobody was banned until 1970: it stands for none.
  if (text === '0') return 'open'
  const until = /^\d+(?:\.\d+)?$/.test(text) ? fromEpoch(Number(text)) : isoMs(text)
  if (until === undefined || Number.isNaN(until)) return 'unclear'
  return until > now.getTime() ? 'suspended' : 'open'
}

function isoMs(text: string): number | undefined {
  const [, day, time = '00:00', zone = 'Z'] = moment.exec(text) ?? []
  if (day === undefined) return undefined
  const offset = /^[+-]/.test(zone) ? `${zone.slice(0, 3)}:${zone.slice(3).replace(':', '') || '00'}` : 'Z'
  return Date.parse(`${day}T${time}${offset}`)
}

/** Unix seconds or milliseconds as milliseconds: which of them is told by the size. Undefined for what is a time in neither. */
export function fromEpoch(value: number): number | undefined {
  const [earliestS, latestS] = [100_000_000, 100_000_000_000]
  if (value >= earliestS && value < latestS) return value * 1000
  return value >= latestS && value < latestS * 1000 ? value : undefined
}

/** For the report and the reason of the suspension: the field and its value, which is a flag, a word or a time. */
const said = (key: string, value: unknown) => `${key} is ${String(value).slice(0, 60)} in the old system`
