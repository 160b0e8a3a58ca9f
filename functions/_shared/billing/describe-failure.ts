/** Why something failed, for logs and the inbox: names and codes only, since a message may quote an address or a value. */
import { z } from 'zod'

const ofStripe = z.object({
  type: z.string().regex(/^Stripe/),
  code: z.string().optional(),
  /** A field's name. */
  param: z.string().nullish(),
  statusCode: z.number().optional(),
  requestId: z.string().optional(),
})
const ofPostgres = z.object({
  name: z.literal('PostgresError'),
  code: z.string(),
  constraint_name: z.string().optional(),
  routine: z.string().optional(),
})

export function describeFailure(error: unknown): string {
  if (error instanceof z.ZodError)
    return `Stripe's answer has another form: ${error.issues.map(({ path, code }) => `${path.join('.')} ${code}`).join(', ')}`.slice(
      0,
      500,
    )
  const { data: stripe } = ofStripe.safeParse(error)
  if (stripe)
    return ['Stripe:', stripe.type, stripe.code, stripe.param, stripe.statusCode, stripe.requestId]
      .filter(Boolean)
      .join(' ')
  const { data: postgres } = ofPostgres.safeParse(error)
  if (postgres)
    return ['Postgres:', postgres.code, postgres.constraint_name, postgres.routine].filter(Boolean).join(' ')
  const code = error instanceof Error && 'code' in error ? ` ${String(error.code)}` : ''
  return (error instanceof Error ? error.name : typeof error) + code
}
