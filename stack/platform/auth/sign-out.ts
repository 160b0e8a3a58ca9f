/** POST /logout: this session, all others, or all. */
import { invalid } from './errors.ts'
import { requireSession } from './sessions.ts'
import type { AuthCall, AuthWorld } from './world.ts'

export async function signOut(world: AuthWorld, call: AuthCall): Promise<Response> {
  const scope = call.url.searchParams.get('scope') ?? 'global'
  if (!['global', 'local', 'others'].includes(scope)) throw invalid(`Unsupported logout scope "${scope}"`)
  const { user, session } = await requireSession(world.sql, world, call)
  await world.sql`
    delete from auth.sessions
    where user_id = ${user.id}
      and case ${scope} when 'local' then id = ${session.id} when 'others' then id <> ${session.id} else true end`
  return new Response(null, { status: 204 })
}
