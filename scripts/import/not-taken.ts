/** What a row has and an import does not take, so that nobody believes it came along. */
import { plainName, stateNames } from './old-state.ts'

const signIns = 'sign-ins with other providers'
const kinds: [kind: string, names: RegExp][] = [
  [
    'second factors',
    /mfa|totp|multifactor|twofactor|2fa|backupcode|recoverycode|authenticator|^factors$|^enrollments$/,
  ],
  ['phone numbers', /phone|^mobile/],
  [signIns, /^(?:provideruserinfo|identities|externalaccounts|providers?|samlaccounts|web3wallets|passkeys)$/],
  ['claims and metadata', /claims|customattributes|metadata|^roles?$|^groups$|^permissions$/],
  ['pictures', /photo|picture|avatar|imageurl/],
]
/** The password itself, as Firebase, Auth0 and Supabase list it among the providers. */
const passwordProviders = new Set(['password', 'auth0', 'email'])

/** `second factors (mfaInfo)`, for every field of the row that has something and is none of `taken`. */
export function notTaken(fields: unknown, taken: Set<string>): string[] {
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) return []
  return Object.entries(fields).flatMap(([key, value]) => {
    if (taken.has(key) || stateNames.has(plainName(key))) return []
    const name = key.slice(0, 60)
    const [kind] = kinds.find(([, names]) => names.test(plainName(name))) ?? []
    const left = kind === signIns ? [value].flat().filter((entry) => !isPassword(entry)) : value
    return saysSomething(left) ? [kind === undefined ? name : `${kind} (${name})`] : []
  })
}

function saysSomething(value: unknown): boolean {
  if (value === null || value === undefined || value === false || value === 0) return false
  if (typeof value === 'string') return !['', '0', '[]', '{}', 'false'].includes(value.trim())
  return typeof value !== 'object' || Object.values(value).some(saysSomething)
}

function isPassword(entry: unknown): boolean {
  if (typeof entry === 'string') return passwordProviders.has(entry)
  if (typeof entry !== 'object' || entry === null) return false
  const provider = 'providerId' in entry ? entry.providerId : 'provider' in entry ? entry.provider : undefined
  return typeof provider === 'string' && passwordProviders.has(provider)
}

/** More names than this are counted together: a file whose keys are data must not fill the memory. */
const mostNames = 100
const others = 'other fields'

/** In how many rows each was left behind. */
export function countNotTaken(counts: Map<string, number>, names: string[]): void {
  const known = names.map((name) => (counts.has(name) || counts.size < mostNames ? name : others))
  for (const name of new Set(known)) counts.set(name, (counts.get(name) ?? 0) + 1)
}
