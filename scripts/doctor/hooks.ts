/** What the Auth service calls in the database. */
import type postgres from 'postgres'
import { z } from 'zod'
import { byHand, bySql, type Check, judge, type Mend, type Problem, type World } from './check.ts'
import type { Reference } from './reference.ts'

type Hook = { name: string; event: () => Record<string, unknown>; answers: z.ZodType }

const id = () => crypto.randomUUID()
const answered = z.object({ decision: z.enum(['continue', 'reject']) })

/** Each with an event of somebody who does not exist, and what it answers: see https://supabase.com/docs/guides/auth/auth-hooks. */
const hooks: Hook[] = [
  {
    name: 'before_user_created',
    event: () => ({
      metadata: { ip_address: '192.0.2.1' },
      user: { id: id(), email: 'doctor@example.com', user_metadata: { birth_date: '1990-04-01', accept_terms: true } },
    }),
    // A refusal is an answer, too: sign-up may be closed.
    answers: z.strictObject({}).or(z.object({ error: z.object({ http_code: z.literal(403) }) })),
  },
  {
    name: 'custom_access_token',
    event: () => ({ user_id: id(), authentication_method: 'password', claims: { session_id: id(), aal: 'aal1' } }),
    answers: z.object({ claims: z.looseObject({ user_role: z.string() }) }),
  },
  { name: 'password_verification_attempt', event: () => ({ user_id: id(), valid: true }), answers: answered },
  {
    name: 'mfa_verification_attempt',
    event: () => ({ user_id: id(), factor_id: id(), valid: true }),
    answers: answered,
  },
]

const answering: Check = {
  name: 'hooks',
  tells:
    'The Auth service may call each hook, and each answers an event as Auth expects: called in a transaction that is rolled back.',
  mends: 'Grant it, or put the function of the migrations back, with the statement that is printed.',
  async find(world) {
    const reference = await world.reference()
    const problems: Problem[] = []
    for (const hook of hooks) problems.push(...(await hookProblems(hook, world, reference)))
    return judge(problems, `${hooks.length} hooks answer`)
  },
}

async function hookProblems({ name, event, answers }: Hook, { sql }: World, { things }: Reference): Promise<Problem[]> {
  const signature = `private.${name}(jsonb)`
  const again: Mend = bySql(things.get(`function ${signature}`)?.create ?? '')
  const [is] = await sql<{ there: boolean; granted: boolean | null; usable: boolean }[]>`
    select to_regprocedure(${signature}) is not null as there,
      has_function_privilege('supabase_auth_admin', to_regprocedure(${signature}), 'execute') as granted,
      has_schema_privilege('supabase_auth_admin', 'private', 'usage') as usable`
  if (!is?.there) return [{ what: `the hook ${signature} is not there`, mend: again }]
  const denied = [
    ...(is.granted
      ? []
      : [
          {
            what: `Auth may not call ${signature}`,
            mend: bySql(`grant execute on function ${signature} to supabase_auth_admin;`),
          },
        ]),
    ...(is.usable
      ? []
      : [
          {
            what: 'Auth may not look into schema private',
            mend: bySql('grant usage on schema private to supabase_auth_admin;'),
          },
        ]),
  ]
  const outcome = await tryHook(sql, name, event()).catch((error: unknown) => ({
    raised: error instanceof Error && 'code' in error ? String(error.code) : 'an error',
  }))
  if ('raised' in outcome)
    return [...denied, { what: `the hook ${signature} raises ${outcome.raised}: nobody gets in`, mend: again }]
  const isRight = answers.safeParse(outcome.answer).success
  return isRight
    ? denied
    : [...denied, { what: `the hook ${signature} answers what Auth does not understand`, mend: again }]
}

/** As role postgres, since hosted Supabase lets nobody become Auth's role: the hooks are definer functions, and do the same for both. */
async function tryHook(sql: postgres.Sql, name: string, event: Record<string, unknown>): Promise<{ answer: unknown }> {
  const undo = new Error('rolled back')
  const found: { answer?: unknown } = {}
  await sql
    .begin(async (tx) => {
      await tx`set local statement_timeout = '2s'`
      await tx`set local lock_timeout = '1s'`
      const [row] = await tx`select ${tx(`private.${name}`)}(${JSON.stringify(event)}::text::jsonb) as answer`
      found.answer = row?.answer
      throw undo
    })
    .catch((error: unknown) => {
      if (error !== undo) throw error
    })
  return { answer: found.answer }
}

const enabled: Check = {
  name: 'hooks-enabled',
  tells:
    'Auth is configured to call the hooks: by the settings of hosted Supabase, elsewhere by what sign-ups leave behind.',
  mends: 'Push the configuration; self-hosted: set GOTRUE_HOOK_..._ENABLED and _URI of the Auth container.',
  async find(world) {
    return world.management ? configured(world) : seen(world)
  },
}

const hookSettings = z.looseObject({
  hook_before_user_created_enabled: z.boolean().nullish(),
  hook_before_user_created_uri: z.string().nullish(),
  hook_custom_access_token_enabled: z.boolean().nullish(),
  hook_custom_access_token_uri: z.string().nullish(),
})

async function configured({ management }: World) {
  const config = await management?.get('config/auth', hookSettings)
  // The other two are of the Team and Enterprise plans: nothing depends on them alone.
  const off = (['before_user_created', 'custom_access_token'] as const).filter(
    (name) => !config?.[`hook_${name}_enabled`] || !config[`hook_${name}_uri`]?.endsWith(`/private/${name}`),
  )
  const mend = byHand('Push supabase/config.toml: npm run deploy does.')
  return judge(
    off.map((name) => ({ what: `Auth does not call private.${name}`, mend })),
    'Auth is configured to call them',
  )
}

async function seen({ look }: World) {
  const [row] = await look(
    (sql) => sql<{ announced: number; unannounced: number }[]>`
      select count(*) filter (where origin = 'sign_up')::integer as announced,
        count(*) filter (where origin = 'unannounced')::integer as unannounced
      from private.registrations where confirmed_at > now() - interval '7 days'`,
  )
  const { announced = 0, unannounced = 0 } = row ?? {}
  if (announced > 0) return { ok: `${announced} sign-ups of the last seven days went through the hook` }
  if (unannounced === 0)
    return { skip: 'nobody signed up within seven days, and Auth does not tell what it is configured to call' }
  const mend = byHand(
    'Set GOTRUE_HOOK_BEFORE_USER_CREATED_ENABLED=true and _URI=pg-functions://postgres/private/before_user_created of the Auth container.',
  )
  return { wrong: [{ what: `none of ${unannounced} sign-ups of the last seven days went through the hook`, mend }] }
}

export const ofHooks: Check[] = [answering, enabled]
