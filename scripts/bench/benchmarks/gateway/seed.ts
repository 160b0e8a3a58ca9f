/** Accounts with room for every call of the benchmark, models at the fake provider, and access tokens. */
import { type CryptoKey, exportJWK, generateKeyPair, SignJWT } from 'jose'
import postgres from 'postgres'

export type Session = { userId: string; sessionId: string }
export type Seeded = { sessions: Session[]; tokens: string[]; jwks: string; gatewayUrl: string }

/** The gateway's own role, as it is deployed: with its settings and no other rights. */
const gatewayPassword = 'bench'

/** Every delay (ms) and gap (ms) that a case asks for, as the fake provider reads it from the model's name. */
export const modelName = (delayMs: number, gapMs: number) => `bench-${delayMs}-${gapMs}`
const models = [modelName(0, 0), modelName(20, 0), modelName(0, 10), modelName(0, 20)]

/** As superuser. All that knows how accounts, plans and models look like in SQL is here. */
async function seedDatabase(sql: postgres.Sql, users: number, providerUrl: string) {
  for (let from = 1; from <= users; from += 500) {
    await sql`
      insert into auth.users (id, email, email_confirmed_at, raw_user_meta_data, aud, role, created_at)
      select gen_random_uuid(), 'bench-' || i || '@example.com', now(), '{}', 'authenticated', 'authenticated', now()
      from generate_series(${from}::integer, ${Math.min(users, from + 499)}::integer) i`
    await sql`analyze`
  }
  await sql`
    insert into auth.sessions (id, user_id, aal, created_at) select gen_random_uuid(), id, 'aal1', now() from auth.users`
  await sql`insert into public.plans (id, name) values ('bench', 'Bench')`
  // Every limit is checked, and none is reached.
  await sql`
    insert into public.plan_limits (plan_id, meter, period, amount)
    select 'bench', meter, period, 1000000000000 from public.plan_limits where plan_id = 'premium'`
  await sql`update private.settings set value = '1000000' where key = 'ai.project_usd_per_month'`
  await sql`update public.profiles set plan_id = 'bench' where true`
  await sql`select set_config('request.jwt.claims', '{"role": "service_role"}', false)`
  await sql`select public.grant_credits(id, 1000000000, 'bench', 'bench') from auth.users`
  await sql`
    insert into private.providers (id, base_url, api_key_secret) values ('bench', ${providerUrl}, null)`
  for (const model of models) {
    await sql`
      insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens)
      values (${model}, 'bench', ${model}, 128000, 16384)`
    await sql`
      insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok)
      values (${model}, '2026-01-01T00:00:00Z', 0.15, 0.60)`
    await sql`insert into public.plan_models (plan_id, model_id) values ('bench', ${model})`
  }
  // What the handler with two round trips has instead.
  await sql.unsafe(`
    create schema bench authorization postgres;
    set role postgres;
    create table bench.accounts (id integer primary key, balance bigint not null, held bigint not null) with (fillfactor = 50);
    create table bench.calls (
      id bigint generated always as identity primary key, account_id integer not null references bench.accounts (id),
      state text not null, created_at timestamptz not null default now()) with (fillfactor = 70);
    insert into bench.accounts select i, 1000000000, 0 from generate_series(0, ${users - 1}) i;
    reset role`)
  await sql.unsafe(`alter role palisade_gateway password '${gatewayPassword}'`)
  await sql`vacuum (analyze)`
  return sql<Session[]>`
    select user_id as "userId", id as "sessionId" from auth.sessions order by md5(id::text)`
}

export async function seed(
  superuserUrl: string,
  users: number,
  providerUrl: string,
  projectUrl: string,
): Promise<Seeded> {
  const sql = postgres(superuserUrl, { max: 1, onnotice: () => {} })
  try {
    const sessions = await seedDatabase(sql, users, providerUrl)
    const { privateKey, publicKey } = await generateKeyPair('ES256')
    const key = { ...(await exportJWK(publicKey)), kid: 'bench', alg: 'ES256', use: 'sig' }
    const tokens = await Promise.all(sessions.map((session) => signToken(session, privateKey, projectUrl)))
    const gatewayUrl = Object.assign(new URL(superuserUrl), {
      username: 'palisade_gateway',
      password: gatewayPassword,
    }).href
    return { sessions: [...sessions], tokens, jwks: JSON.stringify({ keys: [key] }), gatewayUrl }
  } finally {
    await sql.end()
  }
}

/** With the claims that the Auth service writes, so that a token is as long as a real one. */
function signToken(session: Session, key: CryptoKey, projectUrl: string): Promise<string> {
  const claims = {
    email: `bench-${session.userId}@example.com`,
    phone: '',
    app_metadata: { provider: 'email', providers: ['email'] },
    user_metadata: {},
    role: 'authenticated',
    aal: 'aal1',
    amr: [{ method: 'password', timestamp: 1_780_000_000 }],
    session_id: session.sessionId,
    is_anonymous: false,
  }
  return new SignJWT(claims)
    .setProtectedHeader({ alg: 'ES256', kid: 'bench', typ: 'JWT' })
    .setIssuer(`${projectUrl}/auth/v1`)
    .setSubject(session.userId)
    .setAudience('authenticated')
    .setIssuedAt()
    .setExpirationTime('12h')
    .sign(key)
}
