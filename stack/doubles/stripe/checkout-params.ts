/** What a checkout session is made of. */
import { z } from 'zod'
import { expand, ignored, integer, metadata, text } from './params.ts'

const address = z
  .string()
  .max(5000)
  .regex(/^https?:\/\//, 'Not a valid URL')
const price_data = z.strictObject({
  currency: text,
  unit_amount: integer.pipe(z.number().min(0)),
  product: text.optional(),
  product_data: z.strictObject({ name: text, description: text.optional(), metadata: metadata.optional() }).optional(),
  recurring: z
    .strictObject({ interval: z.enum(['day', 'week', 'month', 'year']), interval_count: integer.default(1) })
    .optional(),
})
export const lineItem = z.strictObject({
  price: text.optional(),
  price_data: price_data.optional(),
  quantity: integer.pipe(z.number().min(1)).default(1),
})
const missing_payment_method = z.enum(['create_invoice', 'pause', 'cancel'])
const trial_settings = z.strictObject({ end_behavior: z.strictObject({ missing_payment_method }) }).optional()

export const newParams = z.strictObject({
  mode: z.enum(['payment', 'subscription']),
  line_items: z.array(lineItem).min(1).max(100),
  success_url: address,
  cancel_url: address.optional(),
  customer: text.optional(),
  customer_email: text.optional(),
  customer_creation: z.enum(['always', 'if_required']).optional(),
  client_reference_id: text.max(200).optional(),
  expires_at: integer.optional(),
  metadata: metadata.optional(),
  payment_method_collection: z.enum(['always', 'if_required']).default('always'),
  subscription_data: z
    .strictObject({
      metadata: metadata.optional(),
      trial_period_days: integer.pipe(z.number().min(1).max(730)).optional(),
      trial_end: integer.optional(),
      trial_settings,
      description: ignored,
      billing_mode: ignored,
    })
    .optional(),
  payment_intent_data: z
    .strictObject({
      metadata: metadata.optional(),
      description: text.optional(),
      receipt_email: ignored,
      setup_future_usage: ignored,
      statement_descriptor: ignored,
    })
    .optional(),
  allow_promotion_codes: ignored,
  adaptive_pricing: ignored,
  branding_settings: ignored,
  name_collection: ignored,
  origin_context: ignored,
  phone_number_collection: ignored,
  wallet_options: ignored,
  automatic_tax: ignored,
  billing_address_collection: ignored,
  consent_collection: ignored,
  custom_text: ignored,
  customer_update: ignored,
  locale: ignored,
  saved_payment_method_options: ignored,
  submit_type: ignored,
  tax_id_collection: ignored,
  ui_mode: z.literal('hosted_page').optional(),
  expand,
})
export type NewParams = z.infer<typeof newParams>
