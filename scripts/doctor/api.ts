/** What the world outside sees: the API's address, keys and schemas, and the functions behind it. */

import { readFileSync } from 'node:fs'
import { connect } from 'node:tls'
import { decodeProtectedHeader, importJWK, SignJWT } from 'jose'
import { parse } from 'smol-toml'
import { z } from 'zod'
import { projectFile, StackError } from '../../stack/config.ts'
import { isPublicAddress } from '../../stack/host-reach.ts'
import { byHand, byShell, bySql, type Check, judge, literal, type Outcome, type Problem, type World } from './check.ts'

const timeoutMs = 15_000
const noApi = { skip: 'SUPABASE_URL is not set: there is no API to ask' }

/** Keys of the new kind are no tokens: the gateway puts one in their place. */
const withKey = (key: string) =>
  key.startsWith('sb_') ? { apikey: key } : { apikey: key, authorization: `Bearer ${key}` }

const ask = (url: string, init: RequestInit = {}) =>
  fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(timeoutMs), ...init }).catch(() => {
    throw new StackError(`${new URL(url).origin} does not answer.`)
  })

const settings = z.object({
  api: z.object({ schemas: z.array(z.string()) }),
  functions: z.record(z.string(), z.looseObject({})),
})
const readProject = () => settings.parse(parse(readFileSync(projectFile, 'utf8')))

const keys: Check = {
  name: 'api-keys',
  tells:
    'The API takes both keys: the publishable one sees what everybody may see, the secret one what the service may.',
  mends: 'Take them from the dashboard (Settings, API keys), or from the variables of the self-hosted gateway.',
  async find({ apiUrl, publishableKey, secretKey }) {
    if (!apiUrl) return noApi
    const problems: Problem[] = []
    const look = async (key: string | null, name: string, table: string) => {
      if (!key) return void problems.push({ what: `${name} is not known here`, mend: byHand(`Set ${name}.`) })
      const { status } = await ask(`${apiUrl}/rest/v1/${table}?limit=1`, { headers: withKey(key) })
      if (status !== 200)
        problems.push({
          what: `the API answers ${status} to ${name}`,
          mend: byHand(`Set ${name} to a key of this project that is not revoked.`),
        })
    }
    await look(publishableKey, 'SUPABASE_PUBLISHABLE_KEY', 'legal_documents')
    await look(secretKey, 'SUPABASE_SECRET_KEY', 'plans')
    return judge(problems, 'both are taken')
  },
}

const hidden = ['private', 'auth', 'cron', 'net', 'vault', 'storage']

const schemas: Check = {
  name: 'exposed-schemas',
  tells:
    'The Data API shows the schemas of supabase/config.toml and no other: private, auth, net, vault and cron least of all.',
  mends: 'Push the configuration; self-hosted: PGRST_DB_SCHEMAS. A setting of role authenticator goes before both.',
  async find(world) {
    const { apiUrl, publishableKey, management } = world
    const allowed = readProject().api.schemas
    const [row] = await world.look(
      (sql) => sql<{ setting: string }[]>`
        select o.setting from pg_db_role_setting s join pg_roles r on r.oid = s.setrole cross join unnest(s.setconfig) o (setting)
        where r.rolname = 'authenticator' and o.setting like 'pgrst.db_schemas=%'`,
    )
    const inDatabase =
      row?.setting
        .replace('pgrst.db_schemas=', '')
        .split(',')
        .map((name) => name.trim()) ?? []
    const problems: Problem[] = inDatabase
      .filter((name) => !allowed.includes(name))
      .map((name) => ({
        what: `role authenticator is set to expose schema ${name}`,
        mend: bySql("alter role authenticator reset pgrst.db_schemas; notify pgrst, 'reload config';"),
      }))
    const push = byHand(
      'Push supabase/config.toml: npm run deploy does. Self-hosted: PGRST_DB_SCHEMAS=public,graphql_public, and restart the rest container.',
    )
    const config = await management?.get('postgrest', z.looseObject({ db_schema: z.string() }))
    for (const name of config?.db_schema.split(',').map((one) => one.trim()) ?? [])
      if (!allowed.includes(name))
        problems.push({ what: `the Data API is configured to expose schema ${name}`, mend: push })
    for (const name of apiUrl && publishableKey ? hidden : []) {
      const response = await ask(`${apiUrl}/rest/v1/doctor`, {
        headers: { ...withKey(publishableKey ?? ''), 'accept-profile': name },
      })
      // 406, PGRST106: the schema is none of the API's. Anything else was looked for in it.
      // A key that is refused says nothing of schemas: that is another check's.
      if (response.status !== 406 && response.status !== 401)
        problems.push({
          what: `schema ${name} is reachable through the Data API (it answers ${response.status}, not 406)`,
          mend: push,
        })
    }
    const unseen = apiUrl ? '' : ' in the database (the API was not asked)'
    return judge(problems, `only ${allowed.join(' and ')}${unseen}`)
  },
}

const functions: Check = {
  name: 'functions',
  tells: 'Every function of supabase/config.toml is deployed and starts with the variables it has.',
  mends: 'Deploy it; its log names the variables that are missing.',
  async find({ apiUrl, management }) {
    if (!apiUrl) return noApi
    const names = Object.keys(readProject().functions)
    const answers = await Promise.all(
      names.map(async (name) => {
        const response = await ask(`${apiUrl}/functions/v1/${name}`, { method: 'OPTIONS' }).catch(() => undefined)
        return { name, status: response?.status }
      }),
    )
    const deploy = (name: string) =>
      management
        ? byShell(`npx supabase functions deploy ${name} --use-api --remote=${management.ref}`)
        : byHand('See the log of the functions: it names the variables that are missing, or where it does not start.')
    return judge(
      answers
        .filter(({ status }) => status === undefined || status === 404 || status >= 500)
        .map(({ name, status }) => ({
          what:
            status === 404
              ? `the function ${name} is not there`
              : `the function ${name} ${status === undefined ? 'does not answer' : `answers ${status}: it does not start`}`,
          mend: deploy(name),
        })),
      names.join(', '),
    )
  },
}

const jwks = z.object({
  keys: z.array(z.looseObject({ kty: z.string(), kid: z.string().optional(), alg: z.string().optional() })),
})

const tokenKeys: Check = {
  name: 'jwks',
  tells: 'The public keys of tokens can be read, are asymmetric, and are those that the functions accept.',
  mends:
    'Migrate to asymmetric signing keys in the dashboard, or give Auth and functions the same keys; a rotation is finished when both have it.',
  async find(world) {
    const { apiUrl } = world
    if (!apiUrl) return noApi
    const url = `${apiUrl}/auth/v1/.well-known/jwks.json`
    const response = await ask(url)
    const parsed = jwks.safeParse(await response.json().catch(() => undefined))
    const rotate = byHand(
      'In the dashboard: Settings, JWT keys, migrate to asymmetric keys. Self-hosted: GOTRUE_JWT_KEYS of the Auth container with an ES256 key.',
    )
    if (response.status !== 200 || !parsed.success)
      return { wrong: [{ what: `${url} answers ${response.status} and no keys`, mend: rotate }] }
    const usable = parsed.data.keys.filter(({ kty }) => kty === 'EC' || kty === 'RSA')
    if (usable.length === 0)
      return { wrong: [{ what: 'tokens are signed with a shared secret, which the functions refuse', mend: rotate }] }
    return tryToken(
      world,
      usable.map(({ kid }) => kid),
    )
  },
}

/** With a token that has expired: what the function says of it shows whether it knew the key, and nobody gets in. */
async function tryToken(world: World, kids: (string | undefined)[]): Promise<Outcome> {
  const { apiUrl, signingKey, values } = world
  const token = signingKey ? await expiredToken(signingKey, `${apiUrl}/auth/v1`) : values.ACCESS_TOKEN
  const count = `${kids.length} ${kids.length === 1 ? 'key' : 'keys'}`
  if (!token)
    return { ok: `${count}; without a token in ACCESS_TOKEN it was not tried whether the functions accept one` }
  const { kid } = decodeProtectedHeader(token)
  const same = byHand(
    'Auth and functions have other keys: set SUPABASE_JWKS of the functions to the keys of Auth, or restart what was not told of a rotation.',
  )
  const response = await ask(`${apiUrl}/functions/v1/credentials`, { headers: { authorization: `Bearer ${token}` } })
  const said = await response.text()
  const isKnown = response.status !== 401 || said.includes('expired')
  return judge(
    [
      ...(kids.includes(kid) ? [] : [{ what: 'the key that signs tokens is not among the public ones', mend: same }]),
      ...(isKnown ? [] : [{ what: 'the functions do not accept a token of this project', mend: same }]),
    ],
    `${count}, which the functions accept`,
  )
}

async function expiredToken(key: Record<string, unknown>, issuer: string): Promise<string> {
  const now = Math.floor(Date.now() / 1000)
  return new SignJWT({ session_id: crypto.randomUUID(), role: 'authenticated', aal: 'aal1' })
    .setProtectedHeader({ alg: 'ES256', kid: String(key.kid) })
    .setIssuer(issuer)
    .setAudience('authenticated')
    .setSubject(crypto.randomUUID())
    .setIssuedAt(now - 7_200)
    .setExpirationTime(now - 3_600)
    .sign(await importJWK(key, 'ES256'))
}

const site: Check = {
  name: 'site-url',
  tells: 'Links in mails lead to a public address with https: what Auth redirects to, asked with a link that is none.',
  mends: 'Set the site URL: of the project (Authentication, URL configuration), or SITE_URL of the self-hosted Auth.',
  async find({ kind, apiUrl, management }) {
    if (kind === 'local') return { skip: 'the local stack has a landing page of its own' }
    if (!apiUrl) return noApi
    const config = await management?.get(
      'config/auth',
      z.looseObject({ site_url: z.string(), uri_allow_list: z.string().nullish() }),
    )
    const { headers } = await ask(`${apiUrl}/auth/v1/verify?token=doctor&type=signup`)
    const leads = config?.site_url ?? headers.get('location')?.replace(/[#?].*$/, '')
    const mend = byHand(
      'Set SITE_URL to the address of your app, with https: in .env.production and deploy, or of the Auth container.',
    )
    if (!leads) return { wrong: [{ what: 'Auth does not say where links in mails lead', mend }] }
    const redirects = (config?.uri_allow_list ?? '').split(',').filter((url) => url.trim() !== '')
    return judge(
      [
        ...(!isPublicAddress(leads)
          ? [{ what: `links in mails lead to ${leads}`, mend }]
          : leads.startsWith('https://')
            ? []
            : [{ what: `links in mails lead to ${leads}, without TLS`, mend }]),
        ...redirects
          .filter((url) => !isPublicAddress(url))
          .map((url) => ({
            what: `Auth may redirect to ${url.trim()}`,
            mend: byHand('Take it out of the redirect URLs.'),
          })),
      ],
      leads,
    )
  },
}

const certificateDays = 14

const apiTls: Check = {
  name: 'api-tls',
  tells: 'The API is reached with TLS 1.2 or newer, and its certificate holds for two weeks at least.',
  mends: 'Put a proxy that renews certificates before it; see the pages of operations.',
  async find({ kind, apiUrl, now }) {
    if (kind === 'local') return { skip: 'the local stack listens on this machine alone' }
    if (!apiUrl) return noApi
    const { protocol, hostname, port } = new URL(apiUrl)
    const mend = byHand(
      'Put a TLS proxy before the API (Caddy renews by itself), and let SUPABASE_URL begin with https.',
    )
    if (protocol !== 'https:')
      return { wrong: [{ what: `${apiUrl} is without TLS: tokens and keys can be read on the way`, mend }] }
    const found = await handshake(hostname, Number(port || 443))
    if ('error' in found)
      return { wrong: [{ what: `the certificate of ${hostname} does not hold: ${found.error}`, mend }] }
    const days = Math.floor((found.validTo - now()) / 86_400_000)
    const isOld = !/^TLSv1\.[23]$/.test(found.version)
    return judge(
      [
        ...(isOld ? [{ what: `${hostname} speaks ${found.version}`, mend }] : []),
        ...(days < certificateDays ? [{ what: `the certificate of ${hostname} ends in ${days} days`, mend }] : []),
      ],
      `${found.version}, certificate for another ${days} days`,
    )
  },
}

function handshake(host: string, port: number): Promise<{ version: string; validTo: number } | { error: string }> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, servername: host, timeout: timeoutMs }, () => {
      const version = socket.getProtocol() ?? 'unknown'
      resolve({ version, validTo: Date.parse(socket.getPeerCertificate().valid_to) })
      socket.end()
    })
    socket.once('error', (error: Error & { code?: string }) => resolve({ error: error.code ?? error.message }))
    socket.once('timeout', () => {
      resolve({ error: 'no answer' })
      socket.destroy()
    })
  })
}

const documents: Check = {
  name: 'legal-documents',
  tells: 'Terms and privacy policy are published, and are your own, not the examples.',
  mends: 'Insert the newest version with its address.',
  async find({ kind, look }) {
    const rows = await look(
      (sql) => sql<{ kind: string; url: string | null }[]>`
        select k.kind, d.url from unnest(array['terms', 'privacy']) k (kind) left join lateral (
          select l.url from public.legal_documents l where l.kind = k.kind and l.published_at <= now()
          order by l.published_at desc, l.version desc limit 1) d on true`,
    )
    const wrong = rows.filter(({ url }) => url === null || /^https?:\/\/example\.com\//.test(url))
    if (kind === 'local' && rows.every(({ url }) => url !== null)) return { skip: 'the local stack shows the examples' }
    const year = new Date().toISOString().slice(0, 10)
    return judge(
      wrong.map(({ kind: document, url }) => ({
        what:
          url === null ? `no ${document} are published` : `the ${document} that people accept are the example (${url})`,
        mend: byHand(
          `insert into public.legal_documents (kind, version, url) values (${literal(document)}, '${year}', 'https://...');`,
        ),
      })),
      'published',
    )
  },
}

export const ofApi: Check[] = [keys, schemas, functions, tokenKeys, site, apiTls, documents]
