/** The parameters of /v1/subscriptions. */
import { z } from 'zod'
import { boolean, discounts, expand, ignored, integer, metadata, rates, text, unset } from './params.ts'

const quantity = integer.pipe(z.number().min(0)).optional()
const proration_behavior = z.enum(['create_prorations', 'always_invoice', 'none']).default('create_prorations')
const anchor = z.strictObject({ type: z.enum(['now', 'unchanged']) }).optional()
const missing_payment_method = z.enum(['create_invoice', 'pause', 'cancel'])
const trial_settings = z.strictObject({ end_behavior: z.strictObject({ missing_payment_method }) }).optional()
export const extras = z
  .array(z.strictObject({ price: text, quantity: integer.pipe(z.number().min(0)).default(1), tax_rates: rates }))
  .max(20)
const billing_thresholds = unset
  .or(
    z.strictObject({
      amount_gte: integer.pipe(z.number().min(50)).optional(),
      reset_billing_cycle_anchor: boolean.optional(),
    }),
  )
  .optional()
const shared = {
  add_invoice_items: extras.optional(),
  billing_thresholds,
  default_tax_rates: rates,
  discounts,
  metadata: metadata.optional(),
  off_session: boolean.optional(),
  expand,
}
const proration_discounts = z.enum(['included', 'itemized']).optional()
export const newParams = z.strictObject({
  ...shared,
  customer: text,
  items: z
    .array(z.strictObject({ price: text, quantity, tax_rates: rates, discounts }))
    .min(1)
    .max(20),
  billing_cycle_anchor: integer.optional(),
  billing_mode: z
    .strictObject({ type: z.literal('flexible'), flexible: z.strictObject({ proration_discounts }).optional() })
    .optional(),
  default_payment_method: text.optional(),
  payment_behavior: z.enum(['allow_incomplete', 'default_incomplete', 'error_if_incomplete']).optional(),
  proration_behavior: z.enum(['create_prorations', 'none']).default('create_prorations'),
  trial_period_days: integer.pipe(z.number().min(1).max(730)).optional(),
  trial_end: integer.optional(),
  trial_settings,
})
const changedItem = z.strictObject({
  id: text.optional(),
  price: text.optional(),
  quantity,
  deleted: boolean.optional(),
  tax_rates: rates,
  discounts,
})
export const changedParams = z.strictObject({
  ...shared,
  items: z.array(changedItem).optional(),
  proration_behavior,
  billing_cycle_anchor: anchor,
  cancel_at_period_end: boolean.optional(),
  cancel_at: unset.or(integer).optional(),
  default_payment_method: unset.or(text).optional(),
  pause_collection: unset
    .or(
      z.strictObject({
        behavior: z.enum(['keep_as_draft', 'mark_uncollectible', 'void']),
        resumes_at: integer.optional(),
      }),
    )
    .optional(),
  payment_behavior: z
    .enum(['allow_incomplete', 'default_incomplete', 'error_if_incomplete', 'pending_if_incomplete'])
    .default('allow_incomplete'),
})

export const ended = z.strictObject({
  invoice_now: boolean.default(false),
  prorate: boolean.default(false),
  cancellation_details: ignored,
  expand,
})
export const resumed = z.strictObject({
  billing_cycle_anchor: anchor,
  proration_behavior,
  payment_behavior: z.enum(['resume_on_payment_attempt', 'resume_on_payment_success']).optional(),
  expand,
})
