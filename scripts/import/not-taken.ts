/** What a row has and an import does not take, so that nobody believes it came along. */
import { plainName, stateNames } from './old-state.ts'

const kinds: [kind: string, names: RegExp][] = [
  [
    'second factors',
    /^(?:.*(?:mfa|totp|multifactor|twofactor|2fa|backupcode|recoverycode|authenticator).*|factors|enrollments)$/,
  ],
  ['phone numbers', /phone|^mobile/],
  [
    'sign-ins with other providers',
    /^(?:provideruserinfo|identities|externalaccounts|providers?|samlaccounts|web3wallets|passkeys)$/,
  ],
  ['claims and metadata', /claims|customattributes|metadata|^roles?$|^groups$|^permissions$/],
  ['pictures', /photo|picture|avatar|imageurl/],
]
/** The password itself, as Firebase, Auth0, Supabase and Clerk list it among the providers. */
const passwordProviders = new Set(['password', 'auth0', 'email'])

/** `second factors (mfaInfo)`, for every field of the row that has something and is none of `taken`. */
export function notTaken(fields: unknown, taken: Set<string>): string[] {
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) return []
  return Object.entries(fields)
    .filter(([key, value]) => !taken.has(key) && !stateNames.has(plainName(key)) && saysSomething(value))
    .map(([key]) => nameOf(key.slice(0, 60)))
}

function nameOf(key: string): string {
  const [kind] = kinds.find(([, names]) => names.test(plainName(key))) ?? []
  return kind === undefined ? key : `${kind} (${key})`
}

function saysSomething(value: unknown): boolean {
  if (value === null || value === undefined || value === false || value === '') return false
  if (typeof value === 'string') return !['[]', '{}', 'false'].includes(value.trim())
  if (Array.isArray(value)) return value.some((entry) => !isPassword(entry) && saysSomething(entry))
  return typeof value !== 'object' || Object.values(value).some(saysSomething)
}

function isPassword(entry: unknown): boolean {
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
