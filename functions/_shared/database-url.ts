/** What the URL of a database says about the way there: TLS and poolers. Functions and scripts read it alike. */

/** In the options of postgres.js. Given as objects, so that nothing of the environment or of a driver's default decides. */
type Tls =
  | false
  | 'prefer'
  | { rejectUnauthorized: boolean; host: string; ca?: string; checkServerIdentity?: () => undefined }
export type DatabaseAddress = { url: string; ssl: Tls; isPooled: boolean }

/** The port of Supabase's pooler in transaction mode. */
const poolerPort = '6543'

/**
 * `sslmode` as libpq means it. Without it: no TLS on this machine; TLS where the server has it inside a private network, whose
 * names have no dot; and TLS in any case everywhere else. A certificate of the authority (`ca`, PEM) is always checked.
 *
 * A pooler in transaction mode is known by its port or by `pgbouncer=true`: each transaction may have another session there, so
 * that there are no prepared statements and no settings of a session.
 */
export function readDatabaseUrl(text: string, ca?: string): DatabaseAddress {
  const url = new URL(text)
  const take = (name: string) => {
    const value = url.searchParams.get(name)
    url.searchParams.delete(name)
    return value
  }
  const host = decodeURIComponent(url.hostname).replace(/^\[|\]$/g, '')
  const pooler = take('pgbouncer')
  if (pooler !== null && pooler !== 'true' && pooler !== 'false')
    throw new Error('In the URL of a database pgbouncer is true or false.')
  const roots = take('sslrootcert')
  if (roots !== null && roots !== 'system')
    throw new Error(
      'In the URL of a database sslrootcert is "system" or absent: an authority of your own goes into DB_CA_CERT.',
    )
  const mode = take('sslmode') ?? (roots ? 'verify-full' : defaultMode(host, ca))
  return {
    url: url.href,
    ssl: tlsOf(mode, host, ca),
    isPooled: pooler === null ? url.port === poolerPort : pooler === 'true',
  }
}

function defaultMode(host: string, ca: string | undefined): string {
  if (/^(localhost|127(\.\d+){1,3}|::1|\/.*|)$/.test(host)) return 'disable'
  if (ca !== undefined) return 'verify-full'
  // Of names with dots none: 10.example.com is anybody's.
  const isAddress = /^\d+(\.\d+){3}$/.test(host)
  const isPrivate =
    (isAddress && /^(10|192\.168|169\.254|172\.(1[6-9]|2\d|3[01]))\./.test(host)) ||
    /^f[cd][0-9a-f]{2}:|^[^.:]+$/.test(host)
  return isPrivate ? 'prefer' : 'require'
}

function tlsOf(mode: string, host: string, ca: string | undefined): Tls {
  // With an authority `require` checks as much as `verify-ca`, as in libpq.
  if (mode === 'require' && ca === undefined) return { rejectUnauthorized: false, host }
  const authority = ca === undefined ? {} : { ca }
  switch (mode) {
    case 'disable':
      return false
    case 'allow':
    case 'prefer':
      return 'prefer'
    case 'require':
    case 'verify-ca':
      return { rejectUnauthorized: true, host, ...authority, checkServerIdentity: () => undefined }
    case 'verify-full':
      // By its host: postgres.js 3.4.9 leaves out the name of an address, and Node.js then checks for "localhost".
      return { rejectUnauthorized: true, host, ...authority }
    default:
      throw new Error('In the URL of a database sslmode is disable, prefer, require, verify-ca or verify-full.')
  }
}

/** Why there is no connection, when it is for TLS; of the driver's words only those that we know. */
export function tlsProblem(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const code = 'code' in error ? String(error.code) : ''
  if (/before secure TLS connection/.test(error.message)) return 'the database speaks no TLS, and sslmode demands it'
  if (code === '28000' && /no encryption/.test(error.message))
    return 'the database demands TLS: use sslmode=require or a stricter one'
  if (/ALTNAME/.test(code)) return 'the certificate of the database is for another name'
  return /CERT|SIGNATURE/.test(code)
    ? `the certificate of the database is not trusted (${code}): DB_CA_CERT is not its authority`
    : undefined
}
