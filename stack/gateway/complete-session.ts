/** What @supabase/lite leaves out of a session and its token: amr, aal, device, and every claim of the real service. */
import type { Sql } from 'postgres'
import type { Tokens } from './tokens.ts'

export type SessionOrigin = { method: string | null; userAgent: string | null; address: string }

type Row = {
  email: string | null
  phone: string | null
  app_metadata: Record<string, unknown>
  user_metadata: Record<string, unknown>
  is_anonymous: boolean
  is_banned: boolean
  aal: string
  amr: { method: string; timestamp: number }[]
}

/** Turns lite's token into ours, and notes on the session who got it. Null: the user is banned; the session is gone. */
export async function completeSession(
  sql: Sql,
  tokens: Tokens,
  innerToken: string,
  origin: SessionOrigin,
): Promise<string | null> {
  const { sub, session_id, aud, role, exp, iat } = await tokens.readInner(innerToken)
  const row = await sql.begin(async (tx) => {
    await tx`
      update auth.sessions set user_agent = ${origin.userAgent}, ip = ${origin.address}
      where id = ${session_id} and (user_agent, ip) is distinct from (${origin.userAgent}::text, ${origin.address}::inet)`
    if (origin.method) {
      await tx`
        insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)
        values (gen_random_uuid(), ${session_id}, now(), now(), ${origin.method})
        on conflict (session_id, authentication_method) do nothing`
    }
    const [found] = await tx<Row[]>`
      select u.email, u.phone, coalesce(u.raw_app_meta_data, '{}') as app_metadata,
        coalesce(u.raw_user_meta_data, '{}') as user_metadata, u.is_anonymous,
        coalesce(u.banned_until > now(), false) as is_banned, coalesce(s.aal, 'aal1') as aal,
        coalesce((
          select jsonb_agg(jsonb_build_object(
            'method', c.authentication_method, 'timestamp', floor(extract(epoch from c.created_at))) order by c.created_at desc)
          from auth.mfa_amr_claims c where c.session_id = s.id), '[]') as amr
      from auth.sessions s join auth.users u on u.id = s.user_id
      where s.id = ${session_id} and u.id = ${sub}`
    if (found?.is_banned) await tx`delete from auth.sessions where id = ${session_id}`
    return found
  })
  if (!row || row.is_banned) return null
  const { email, phone, app_metadata, user_metadata, aal, amr, is_anonymous } = row
  const identity = { iss: tokens.issuer, sub, aud, exp, iat, email: email ?? '', phone: phone ?? '' }
  return tokens.sign({ ...identity, app_metadata, user_metadata, role, aal, amr, session_id, is_anonymous })
}
