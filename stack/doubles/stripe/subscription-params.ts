/** What a subscription is made of, and what can be changed of it. */
import { z } from 'zod'
import { boolean, expand, ignored, integer, metadata, text, unset } from './params.ts'

const quantity = integer.pipe(z.number().min(1)).optional()
const proration_behavior = z.enum(['create_prorations', 'always_invoice', 'none']).default('create_prorations')
const missing_payment_method = z.enum(['create_invoice', 'pause', 'cancel'])
const trial_settings = z.strictObject({ end_behavior: z.strictObject({ missing_payment_method }) }).optional()
export const newParams = z.strictObject({
  customer: text,
  items: z
    .array(z.strictObject({ price: text, quantity }))
    .min(1)
    .max(20),
  metadata: metadata.optional(),
  trial_period_days: integer.pipe(z.number().min(1).max(730)).optional(),
  trial_end: integer.optional(),
  trial_settings,
  off_session: ignored,
  payment_behavior: ignored,
  expand,
})
export const changedParams = z.strictObject({
  items: z
    .array(z.strictObject({ id: text.optional(), price: text.optional(), quantity, deleted: boolean.optional() }))
    .optional(),
  proration_behavior,
  cancel_at_period_end: boolean.optional(),
  cancel_at: unset.or(integer).optional(),
  metadata: metadata.optional(),
  pause_collection: unset
    .or(
      z.strictObject({
        behavior: z.enum(['keep_as_draft', 'mark_uncollectible', 'void']),
        resumes_at: integer.optional(),
      }),
    )
    .optional(),
  payment_behavior: ignored,
  expand,
})

export const ended = z.strictObject({ invoice_now: ignored, prorate: ignored, cancellation_details: ignored, expand })
export const resumed = z.strictObject({ billing_cycle_anchor: ignored, proration_behavior: ignored, expand })
