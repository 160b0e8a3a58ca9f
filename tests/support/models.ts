/** Models on the stand-in provider that misbehave on purpose: `test/slow` is the provider's `echo+slow`. */
import postgres from 'postgres'
import { z } from 'zod'
import { target } from '../target.ts'

/** Makes a model for a behaviour of the provider (see stack/doubles/ai-provider/behaviours.ts); answers its id. */
export async function modelThat(behaviour: string): Promise<string> {
  const id = `test/${behaviour}`
  const sql = postgres(target().dbUrl, { max: 1, onnotice: () => {} })
  try {
    await sql.begin(async (tx) => {
      await tx`
        insert into public.models (id, provider_id, upstream_id, context_tokens, max_output_tokens)
        values (${id}, 'demo', ${`echo+${behaviour}`}, 32768, 4096) on conflict (id) do nothing`
      await tx`
        insert into public.model_prices (model_id, valid_from, input_usd_per_mtok, output_usd_per_mtok)
        values (${id}, '2026-01-01', 1, 2) on conflict do nothing`
      await tx`insert into public.plan_models (plan_id, model_id) values ('free', ${id}) on conflict do nothing`
    })
    return id
  } finally {
    await sql.end()
  }
}

const log = z.object({
  calls: z.array(z.object({ aborted: z.boolean(), finished: z.boolean(), chunks_sent: z.number() })),
})

/** The calls that reached the provider with this tag in the body's `user` field. */
export async function callsAtProvider(tag: string): Promise<z.infer<typeof log>['calls']> {
  const { own } = target()
  if (!own) throw new Error('Only the local stack has a provider that can be asked.')
  const response = await fetch(`http://127.0.0.1:${own.port + 4}/calls?tag=${tag}`)
  return log.parse(await response.json()).calls
}
