/** Coupons, the codes that promote them, and the discounts that they become: for a while, and of whom. */
import { addMonths } from './calendar.ts'
import { emit } from './events.ts'
import { invalid, need } from './refusals.ts'
import type { State } from './state.ts'
import {
  type Coupon,
  type Customer,
  type Discount,
  type Invoice,
  newId,
  nulls,
  type PromotionCode,
  type Subscription,
} from './wire.ts'

type NewCoupon = Pick<
  Coupon,
  | 'amount_off'
  | 'currency'
  | 'duration'
  | 'duration_in_months'
  | 'max_redemptions'
  | 'metadata'
  | 'name'
  | 'percent_off'
  | 'redeem_by'
> & { id: string | undefined; products: string[] | undefined }

export const newCoupon = (state: State, { id, products, ...given }: NewCoupon): Coupon => ({
  ...given,
  id: id ?? newId('', 8).slice(1),
  object: 'coupon',
  ...(products ? { applies_to: { products } } : {}),
  created: state.now(),
  livemode: false,
  times_redeemed: 0,
  valid: true,
})

type NewCode = Pick<
  PromotionCode,
  'active' | 'customer' | 'expires_at' | 'max_redemptions' | 'metadata' | 'restrictions'
>

export const newPromotionCode = (state: State, coupon: string, code: string, given: NewCode): PromotionCode => ({
  ...given,
  id: newId('promo_1', 23),
  object: 'promotion_code',
  code,
  created: state.now(),
  customer_account: null,
  livemode: false,
  promotion: { coupon, type: 'coupon' },
  times_redeemed: 0,
})

/** One of the three, as Stripe's parameters have it. */
export type Wanted = {
  coupon?: string | undefined
  promotion_code?: string | undefined
  discount?: string | undefined
}
type Redeemed = { coupon: Coupon; code: PromotionCode | undefined }

/** The coupon that is asked for, if this customer may still have it. */
export function redeemable(
  state: State,
  wanted: Wanted,
  of: { customer: string | null; currency: string | null },
): Redeemed {
  const named = [wanted.coupon, wanted.promotion_code].filter((id) => id !== undefined)
  if (named.length !== 1) throw invalid('A discount is of one coupon or one promotion code.', { param: 'discounts' })
  const code =
    wanted.promotion_code === undefined
      ? undefined
      : need(state.promotionCodes, 'promotion code', wanted.promotion_code, 'discounts[0][promotion_code]')
  const coupon = need(state.coupons, 'coupon', wanted.coupon ?? code?.promotion.coupon ?? '', 'discounts[0][coupon]')
  if (code) checkCode(state, code, of)
  if (!isValid(state, coupon))
    throw invalid(`Coupon expired: ${coupon.id}`, { code: 'coupon_expired', param: 'coupon' })
  if (coupon.currency !== null && of.currency !== null && coupon.currency !== of.currency)
    throw invalid(`A coupon in ${coupon.currency} cannot be taken off what costs ${of.currency}.`, { param: 'coupon' })
  return { coupon, code }
}

/** A code may be for one customer, for newcomers, for so many, until then. */
function checkCode(state: State, code: PromotionCode, { customer }: { customer: string | null }): void {
  const isOver = (code.expires_at ?? Number.POSITIVE_INFINITY) <= state.now()
  const isUsedUp = code.times_redeemed >= (code.max_redemptions ?? Number.POSITIVE_INFINITY)
  if (!code.active || isOver || isUsedUp)
    throw invalid('This promotion code is inactive.', { code: 'promotion_code_inactive', param: 'promotion_code' })
  if (code.customer !== null && code.customer !== customer)
    throw invalid('This promotion code is not for this customer.', { param: 'promotion_code' })
  const hasPaid = [...state.invoices.values()].some(
    (invoice) =>
      invoice.customer === customer && customer !== null && invoice.status === 'paid' && invoice.amount_paid > 0,
  )
  if (code.restrictions.first_time_transaction && hasPaid)
    throw invalid('This promotion code is for a first purchase.', {
      code: 'promotion_code_customer_not_first_time',
      param: 'promotion_code',
    })
}

export const isValid = (state: State, { redeem_by, max_redemptions, times_redeemed }: Coupon) =>
  (redeem_by ?? Number.POSITIVE_INFINITY) > state.now() &&
  times_redeemed < (max_redemptions ?? Number.POSITIVE_INFINITY)

type Owner = Pick<Discount, 'customer'> &
  Partial<Pick<Discount, 'subscription' | 'subscription_item' | 'invoice' | 'invoice_item' | 'checkout_session'>>

/** Discounts of that owner: new ones, and those named that it has already. */
export const discountsOf = (state: State, wanted: Wanted[] | null, owner: Owner, currency: string | null): string[] =>
  (wanted ?? []).map((one) => {
    if (one.discount !== undefined) return need(state.discounts, 'discount', one.discount, 'discounts').id
    return redeem(state, redeemable(state, one, { customer: owner.customer, currency }), owner).id
  })

function redeem(state: State, { coupon, code }: Redeemed, owner: Owner): Discount {
  coupon.times_redeemed += 1
  coupon.valid = isValid(state, coupon)
  if (code) code.times_redeemed += 1
  const months = coupon.duration === 'repeating' ? coupon.duration_in_months : null
  const discount: Discount = {
    ...nulls('checkout_session customer_account invoice invoice_item subscription subscription_item'),
    ...owner,
    id: newId('di_1', 23),
    object: 'discount',
    end: months === null ? null : addMonths(state.now(), months),
    promotion_code: code?.id ?? null,
    source: { coupon: coupon.id, type: 'coupon' },
    start: state.now(),
  }
  state.discounts.set(discount.id, discount)
  if (owner.subscription || (!owner.invoice && !owner.invoice_item && owner.customer && !owner.checkout_session))
    emit(state, 'customer.discount.created', discount)
  return discount
}

const isRunning = (state: State, id: string) => (state.discounts.get(id)?.end ?? Number.POSITIVE_INFINITY) > state.now()

/** What an invoice of that subscription is discounted by now; a customer's own discount only where it has none. */
export function runningDiscounts(state: State, subscription: Subscription, customer: Customer): string[] {
  const own = subscription.discounts.filter((id) => isRunning(state, id))
  if (own.length > 0 || !customer.discount) return own
  return isRunning(state, customer.discount.id) ? [customer.discount.id] : []
}

/** After an invoice took them: what was for once is gone, and so is what is over. */
export function dropUsed(state: State, subscription: Subscription, customer: Customer, invoice: Invoice): void {
  const taken = new Set((invoice.total_discount_amounts ?? []).filter((o) => o.amount > 0).map((o) => o.discount))
  const used = (id: string) => {
    const coupon = state.coupons.get(state.discounts.get(id)?.source.coupon ?? '')
    return (coupon?.duration === 'once' && taken.has(id)) || !isRunning(state, id)
  }
  const kept = (ids: string[]) => {
    for (const id of ids.filter(used)) end(state, id)
    return ids.filter((id) => !used(id))
  }
  subscription.discounts = kept(subscription.discounts)
  for (const item of subscription.items.data) item.discounts = kept(item.discounts)
  if (customer.discount && kept([customer.discount.id]).length === 0) customer.discount = null
}

/** Tells that it is gone; invoices that it was taken off still name it. */
export function end(state: State, id: string): void {
  const discount = state.discounts.get(id)
  if (discount) emit(state, 'customer.discount.deleted', discount)
}
