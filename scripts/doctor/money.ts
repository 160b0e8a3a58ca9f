/** What costs and earns: models with prices and keys, caps, and Stripe's way to us. */
import { createHmac } from 'node:crypto'
import { z } from 'zod'
import { apiVersion, isLiveKey } from '../../functions/_shared/billing/stripe-client.ts'
import { byHand, byShell, bySql, type Check, judge, literal, type Problem } from './check.ts'

const models: Check = {
  name: 'models',
  tells: 'Every model that a plan offers has a price, and so have its fallbacks; a plan offers at least one.',
  mends: 'Insert its price as the provider has it, or switch the model off until then.',
  async find({ look }) {
    const rows = await look(
      (sql) => sql<{ id: string; priced: boolean }[]>`
        with offered as (
          select m.id from public.models m where m.enabled and exists (select from public.plan_models p where p.model_id = m.id)
          union
          select f.fallback_model_id from private.model_fallbacks f join public.models m on m.id = f.fallback_model_id and m.enabled)
        select o.id, exists (select from public.model_prices p where p.model_id = o.id and p.valid_from <= now()) as priced
        from offered o order by 1`,
    )
    const nothing = {
      what: 'no plan offers a model',
      mend: byHand("insert into public.plan_models values ('free', 'openai/gpt-4o-mini');"),
    }
    return judge(
      [
        ...(rows.length === 0 ? [nothing] : []),
        ...rows
          .filter(({ priced }) => !priced)
          .map(({ id }) => ({
            what: `model ${id} is offered and has no price: calls are refused`,
            mend: bySql(
              `update public.models set enabled = false where id = ${literal(id)};   -- or insert its row of public.model_prices`,
            ),
          })),
      ],
      `${rows.length} models with prices`,
    )
  },
}

const providers: Check = {
  name: 'provider-keys',
  tells: 'The provider of every offered model has its key: a secret of the functions, or of Vault.',
  mends: 'Set the secret under the name that private.providers has, or switch the provider off.',
  async find(world) {
    const { kind, values, management } = world
    const rows = await world.look(
      (sql) => sql<{ id: string; secret: string; in_vault: boolean }[]>`
        select p.id, p.api_key_secret as secret, exists (
          select from vault.decrypted_secrets s where s.name = p.api_key_secret and s.decrypted_secret <> '') as in_vault
        from private.providers p where p.enabled and p.api_key_secret is not null and exists (
          select from public.models m join public.plan_models o on o.model_id = m.id where m.provider_id = p.id and m.enabled)
        order by 1`,
    )
    const deployed = await management?.secretDigests()
    const missing = rows.filter(
      ({ secret, in_vault }) => !in_vault && !(deployed ? deployed.has(secret) : values[secret]),
    )
    // The one that .env.example leaves empty: the local stand-in's models answer without.
    const optional = missing.filter(({ secret }) => kind === 'local' && secret === 'OPENROUTER_API_KEY')
    if (missing.length > 0 && optional.length === missing.length)
      return { skip: 'OPENROUTER_API_KEY is not set on this machine: only the stand-in answers' }
    return judge(
      missing
        .filter((one) => !optional.includes(one))
        .map(({ id, secret }) => ({
          what: `provider ${id} has no key: ${secret} is neither a secret of the functions that is known here, nor in Vault`,
          mend: byHand(
            `select vault.create_secret('...', ${literal(secret)}); as role postgres, or npx supabase secrets set --env-file FILE. Until then: update private.providers set enabled = false where id = ${literal(id)};`,
          ),
        })),
      rows.length === 0 ? 'no provider needs one' : rows.map(({ id }) => id).join(', '),
    )
  },
}

const caps: Check = {
  name: 'caps',
  tells:
    'What the project may spend in a month has a cap, anonymous requests have a rate, and every plan limits requests and money.',
  mends: 'Set them: a leaked key costs what these say.',
  async find({ look }) {
    const [row] = await look(
      (sql) => sql<{ cap: string | null; rated: boolean; plans: string[] }[]>`
        select private.setting('ai.project_usd_per_month') #>> '{}' as cap,
          exists (select from private.rate_limits where route = 'ai') as rated,
          array(select p.id || ' has no limit of ' || m.meter || '/' || m.period from public.plans p
            cross join (values ('ai_requests', 'minute'), ('ai_spend_micros', 'month')) m (meter, period)
            where not exists (select from public.plan_limits l where l.plan_id = p.id and l.meter = m.meter and l.period = m.period and l.amount is not null)
            order by 1) as plans`,
    )
    const problems: Problem[] = []
    if (row?.cap === null)
      problems.push({
        what: 'the project has no cap for a month of AI calls',
        mend: bySql("update private.settings set value = '1000' where key = 'ai.project_usd_per_month';"),
      })
    if (!row?.rated)
      problems.push({
        what: 'requests without a valid key have no rate limit',
        mend: bySql("insert into private.rate_limits (route, amount, window_seconds) values ('ai', 100, 900);"),
      })
    for (const plan of row?.plans ?? [])
      problems.push({
        what: `plan ${plan}`,
        mend: byHand('insert into public.plan_limits (plan_id, meter, period, amount) values (...);'),
      })
    return judge(problems, `${row?.cap} dollars a month, and limits of every plan`)
  },
}

const webhook: Check = {
  name: 'stripe-webhook',
  tells:
    'The function stripe-webhook takes an event that is signed with our secret: one of a type that nothing follows from, always with the same id.',
  mends:
    'Set STRIPE_WEBHOOK_SECRETS to the signing secret of the endpoint at Stripe, here and as a secret of the functions.',
  async find({ apiUrl, values, now }) {
    if (!apiUrl) return { skip: 'SUPABASE_URL is not set: there is no API to ask' }
    const { STRIPE_WEBHOOK_SECRETS, STRIPE_SECRET_KEY } = values
    const given = (STRIPE_WEBHOOK_SECRETS ?? '')
      .split(',')
      .map((one) => one.trim())
      .filter(Boolean)
    const url = `${apiUrl}/functions/v1/stripe-webhook`
    if (given.length === 0) return withoutSecret(url)
    const problems: Problem[] = []
    for (const [at, secret] of given.entries()) {
      const livemode = STRIPE_SECRET_KEY !== undefined && isLiveKey(STRIPE_SECRET_KEY)
      const response = await deliver(url, secret, livemode, now())
      const which = given.length > 1 ? ` (secret ${at + 1} of ${given.length})` : ''
      const problem = await webhookProblem(response)
      if (problem) problems.push({ ...problem, what: problem.what + which })
    }
    return judge(problems, 'a signed event was acknowledged')
  },
}

/** A deployment that sells nothing answers that billing is not configured. */
async function withoutSecret(url: string) {
  const { status } = await fetch(url, { method: 'POST', body: '{}', signal: AbortSignal.timeout(15_000) })
  if (status === 503 || status === 501) return { skip: 'this deployment has no Stripe account' }
  return {
    skip: 'STRIPE_WEBHOOK_SECRETS is not known here: put it into .env.production, and an event is signed with it',
  }
}

function deliver(url: string, secret: string, livemode: boolean, now: number): Promise<Response> {
  const seconds = Math.floor(now / 1000)
  const body = JSON.stringify({
    ...{
      id: 'evt_palisade_doctor',
      object: 'event',
      type: 'palisade.doctor',
      api_version: apiVersion,
      livemode,
      created: seconds,
    },
    data: { object: { id: 'doctor', object: 'doctor' } },
  })
  const signature = createHmac('sha256', secret).update(`${seconds}.${body}`).digest('hex')
  const headers = { 'content-type': 'application/json', 'stripe-signature': `t=${seconds},v1=${signature}` }
  return fetch(url, { method: 'POST', headers, body, signal: AbortSignal.timeout(15_000) })
}

async function webhookProblem(response: Response): Promise<Problem | undefined> {
  if (response.status === 200) return undefined
  const code = z
    .object({ error: z.object({ code: z.string() }) })
    .safeParse(await response.json().catch(() => undefined)).data?.error.code
  const set = byHand(
    "Put the endpoint's signing secret (Stripe: Developers, Webhooks) into STRIPE_WEBHOOK_SECRETS of .env.production, and deploy; self-hosted: of the functions' own file, too.",
  )
  if (code === 'invalid_signature')
    return { what: 'the function stripe-webhook does not know the secret in STRIPE_WEBHOOK_SECRETS', mend: set }
  if (code === 'billing_not_configured')
    return { what: 'the functions have no STRIPE_SECRET_KEY or no STRIPE_WEBHOOK_SECRETS', mend: set }
  if (code === 'invalid_request_error')
    return { what: 'the functions have a key of the other mode (test, live) than STRIPE_SECRET_KEY', mend: set }
  return {
    what: `the function stripe-webhook answers ${response.status} to a signed event`,
    mend: byHand('See the log of the function.'),
  }
}

const stripePrices: Check = {
  name: 'stripe-prices',
  tells: 'Everything that is for sale has its price in Stripe.',
  mends: 'Run npm run stripe:sync.',
  async find({ look, values, kind }) {
    const key = values.STRIPE_SECRET_KEY
    if (!key) return { skip: 'STRIPE_SECRET_KEY is not known here' }
    const rows = await look(
      (sql) => sql<{ id: string }[]>`
        select p.id from public.plan_prices p where p.enabled and not exists (
          select from private.stripe_prices s where s.plan_price_id = p.id and s.is_current and s.livemode = ${isLiveKey(key)})
        union all
        select c.id from public.credit_packs c where c.enabled and not exists (
          select from private.stripe_prices s where s.credit_pack_id = c.id and s.is_current and s.livemode = ${isLiveKey(key)})`,
    )
    const mend = byShell(
      kind === 'local'
        ? 'npm run stripe:sync'
        : 'npm run stripe:sync   # with DB_URL and STRIPE_SECRET_KEY in the environment',
    )
    return judge(
      rows.map(({ id }) => ({ what: `${id} cannot be bought: it has no price in Stripe`, mend })),
      'all have one',
    )
  },
}

export const ofMoney: Check[] = [models, providers, caps, webhook, stripePrices]
