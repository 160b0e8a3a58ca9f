/** /v1/coupons and /v1/promotion_codes. */
import { z } from 'zod'
import { isValid, newCoupon, newPromotionCode } from './discounts.ts'
import { change, emit } from './events.ts'
import { listPage } from './lists.ts'
import {
  boolean,
  currency,
  decimal,
  defined,
  expand,
  integer,
  mergeMetadata,
  metadata,
  none,
  page,
  text,
} from './params.ts'
import { invalid, missing, need } from './refusals.ts'
import type { Route } from './routes.ts'
import type { State } from './state.ts'
import { type Coupon, newId } from './wire.ts'

const atLeastOne = integer.pipe(z.number().min(1))
const couponParams = z.strictObject({
  id: text.max(200).optional(),
  amount_off: atLeastOne.optional(),
  percent_off: decimal.pipe(z.number().gt(0).max(100)).optional(),
  currency: currency.optional(),
  duration: z.enum(['forever', 'once', 'repeating']).default('once'),
  duration_in_months: atLeastOne.optional(),
  max_redemptions: atLeastOne.optional(),
  redeem_by: integer.optional(),
  applies_to: z.strictObject({ products: z.array(text).min(1) }).optional(),
  name: text.max(40).optional(),
  metadata: metadata.optional(),
  expand,
})
const changedCoupon = z.strictObject({ name: text.max(40).optional(), metadata: metadata.optional(), expand })

export function discountRoutes(route: Route, state: State): void {
  const path = '/v1/coupons'
  const find = (id: string) => {
    const known = need(state.coupons, 'coupon', id)
    if (isGone(known)) throw missing('coupon', id)
    return known
  }
  route('POST', path, couponParams, (given) => addCoupon(state, given))
  route('GET', `${path}/:id`, none, (_, id) => upToDate(state, find(id)))
  route('POST', `${path}/:id`, changedCoupon, ({ name, metadata }, id) => {
    const known = find(id)
    const changes = { ...defined({ name }), metadata: mergeMetadata(known.metadata ?? {}, metadata) }
    return change(state, 'coupon.updated', known, changes)
  })
  route('GET', path, z.strictObject({ ...page }), (query) =>
    listPage(path, state.coupons.values(), query, (coupon) => !isGone(coupon)),
  )
  route('DELETE', `${path}/:id`, none, (_, id) => {
    const known = find(id)
    known.redeem_by = 0
    known.valid = false
    emit(state, 'coupon.deleted', known)
    return { id, object: 'coupon', deleted: true }
  })
  codeRoutes(route, state)
}

/** Deleted: nobody gets it any more, and who has it keeps it. */
const isGone = ({ redeem_by }: Coupon) => redeem_by === 0

const upToDate = (state: State, coupon: Coupon) => Object.assign(coupon, { valid: isValid(state, coupon) })

function addCoupon(state: State, given: z.infer<typeof couponParams>): Coupon {
  const { id, amount_off, percent_off, currency, duration, duration_in_months, applies_to } = given
  if (id !== undefined && state.coupons.has(id))
    throw invalid('Coupon already exists.', { code: 'resource_already_exists', param: 'id' })
  if ((amount_off === undefined) === (percent_off === undefined))
    throw invalid('You must pass either percent_off or amount_off.', {
      code: 'parameter_missing',
      param: 'percent_off',
    })
  if (amount_off !== undefined && currency === undefined)
    throw invalid('You must pass a currency with amount_off.', { code: 'parameter_missing', param: 'currency' })
  if ((duration === 'repeating') !== (duration_in_months !== undefined))
    throw invalid('duration_in_months belongs to the duration `repeating`.', { param: 'duration_in_months' })
  for (const product of applies_to?.products ?? []) need(state.products, 'product', product, 'applies_to[products]')
  const made = newCoupon(state, {
    id,
    amount_off: amount_off ?? null,
    percent_off: percent_off ?? null,
    currency: amount_off === undefined ? null : (currency ?? null),
    duration,
    duration_in_months: duration_in_months ?? null,
    max_redemptions: given.max_redemptions ?? null,
    redeem_by: given.redeem_by ?? null,
    name: given.name ?? null,
    products: applies_to?.products,
    metadata: mergeMetadata({}, given.metadata),
  })
  state.coupons.set(made.id, made)
  emit(state, 'coupon.created', made)
  return made
}

const codeParams = z.strictObject({
  promotion: z.strictObject({ type: z.literal('coupon'), coupon: text }),
  code: z
    .string()
    .regex(/^[A-Za-z0-9-]{1,500}$/)
    .optional(),
  active: boolean.default(true),
  customer: text.optional(),
  expires_at: integer.optional(),
  max_redemptions: atLeastOne.optional(),
  metadata: metadata.optional(),
  restrictions: z
    .strictObject({
      first_time_transaction: boolean.default(false),
      minimum_amount: atLeastOne.optional(),
      minimum_amount_currency: currency.optional(),
    })
    .optional(),
  expand,
})

function codeRoutes(route: Route, state: State): void {
  const path = '/v1/promotion_codes'
  const find = (id: string) => need(state.promotionCodes, 'promotion code', id)
  route('POST', path, codeParams, (given) => addCode(state, given))
  route('GET', `${path}/:id`, none, (_, id) => find(id))
  route(
    'POST',
    `${path}/:id`,
    z.strictObject({ active: boolean.optional(), metadata: metadata.optional(), expand }),
    ({ active, metadata }, id) => {
      const known = find(id)
      const changes = { ...defined({ active }), metadata: mergeMetadata(known.metadata ?? {}, metadata) }
      return change(state, 'promotion_code.updated', known, changes)
    },
  )
  const filters = {
    active: boolean.optional(),
    code: text.optional(),
    coupon: text.optional(),
    customer: text.optional(),
  }
  route('GET', path, z.strictObject({ ...page, ...filters }), (query) =>
    listPage(path, state.promotionCodes.values(), query, ({ active, code, promotion, customer }) => {
      const given = { active, code: code.toLowerCase(), coupon: promotion.coupon, customer }
      const asked = { ...query, code: query.code?.toLowerCase() }
      return (['active', 'code', 'coupon', 'customer'] as const).every(
        (name) => asked[name] === undefined || asked[name] === given[name],
      )
    }),
  )
}

function addCode(state: State, given: z.infer<typeof codeParams>) {
  const coupon = need(state.coupons, 'coupon', given.promotion.coupon, 'promotion[coupon]')
  const code = given.code ?? newId('', 8).slice(1).toUpperCase()
  const isTaken = [...state.promotionCodes.values()].some(
    (other) => other.active && other.code.toLowerCase() === code.toLowerCase(),
  )
  if (isTaken) throw invalid('An active promotion code with this code already exists.', { param: 'code' })
  if (given.customer !== undefined) need(state.customers, 'customer', given.customer, 'customer')
  const made = newPromotionCode(state, coupon.id, code, {
    active: given.active,
    customer: given.customer ?? null,
    expires_at: given.expires_at ?? null,
    max_redemptions: given.max_redemptions ?? null,
    metadata: mergeMetadata({}, given.metadata),
    restrictions: {
      first_time_transaction: given.restrictions?.first_time_transaction ?? false,
      minimum_amount: given.restrictions?.minimum_amount ?? null,
      minimum_amount_currency: given.restrictions?.minimum_amount_currency ?? null,
    },
  })
  state.promotionCodes.set(made.id, made)
  emit(state, 'promotion_code.created', made)
  return made
}
