/** `expand[]`: objects in the place of their ids, and the lists that are hidden until somebody asks. */
import { listOf } from './lists.ts'
import { invalid } from './refusals.ts'
import type { State } from './state.ts'

type Fields = Record<string, unknown>
const isObject = (value: unknown): value is Fields => typeof value === 'object' && value !== null

/** The `data` of lists counts. */
const deepest = 4
const tooDeep = (path: string) =>
  invalid(`Properties cannot be expanded deeper than ${deepest} levels: ${path}`, {
    code: 'property_expansion_max_depth',
    param: 'expand',
  })

/**
 * `expand[]`: puts objects where their ids stand, and adds the lists that are only shown when asked for. A copy of the
 * answer with what was asked for; what is stored stays as it is.
 */
export function expanded(state: State, answer: unknown, paths: readonly string[]): unknown {
  if (paths.length === 0) return answer
  const copy = structuredClone(answer)
  for (const path of paths) {
    if (path.split('.').length > deepest) throw tooDeep(path)
    expandPath(state, copy, path.split('.'), path)
  }
  return copy
}

function expandPath(state: State, branch: unknown, [name, ...rest]: string[], path: string): void {
  if (name === undefined || branch === null || branch === undefined) return
  if (!isObject(branch)) throw notExpandable(path)
  if (name === 'data' && Array.isArray(branch.data)) {
    for (const item of branch.data) expandPath(state, item, rest, path)
    return
  }
  if (Array.isArray(branch[name])) {
    expandEach(state, branch[name], rest, path)
    return
  }
  const value = name in branch ? branch[name] : hiddenList(state, branch, name, path)
  const object = typeof value === 'string' ? findById(state, value) : value
  if (typeof value === 'string' && object === undefined) throw notExpandable(path)
  branch[name] = typeof value === 'string' ? structuredClone(object) : object
  expandPath(state, branch[name], rest, path)
}

/** A list of ids, as of discounts: each is replaced where it stands. */
function expandEach(state: State, list: unknown[], rest: string[], path: string): void {
  for (const [i, item] of list.entries()) {
    const object = typeof item === 'string' ? findById(state, item) : item
    if (object === undefined) throw notExpandable(path)
    list[i] = typeof item === 'string' ? structuredClone(object) : object
    expandPath(state, list[i], rest, path)
  }
}

const notExpandable = (path: string) => invalid(`This property cannot be expanded (${path}).`, { param: 'expand' })

/** What Stripe leaves out until somebody asks. */
function hiddenList(state: State, { object, id }: Fields, name: string, path: string) {
  const all = <T extends object>(items: Iterable<T>, field: keyof T) =>
    structuredClone([...items].filter((item) => item[field] === id))
  switch (`${object}.${name}`) {
    case 'checkout.session.line_items':
      return listOf(`/v1/checkout/sessions/${id}/line_items`, structuredClone(state.sessionItems.get(String(id)) ?? []))
    case 'invoice.payments':
      return listOf('/v1/invoice_payments', structuredClone(paymentsOf(state, String(id))))
    case 'invoice.confirmation_secret':
      return confirmationSecret(state, String(id))
    case 'charge.refunds':
      return listOf(`/v1/charges/${id}/refunds`, all(state.refunds.values(), 'charge').reverse())
    case 'customer.subscriptions': {
      const live = [...state.subscriptions.values()].filter(({ status }) => status !== 'canceled')
      return listOf(`/v1/customers/${id}/subscriptions`, all(live, 'customer').reverse())
    }
    default:
      throw notExpandable(path)
  }
}

/** What a client pays an open invoice with. */
function confirmationSecret(state: State, invoice: string) {
  const [payment] = paymentsOf(state, invoice)
  const client_secret = state.intents.get(payment?.payment.payment_intent ?? '')?.client_secret
  return client_secret ? { client_secret, type: 'payment_intent' } : null
}

function paymentsOf(state: State, invoice: string) {
  const payment = state.invoicePayments.get(state.paymentsOfInvoices.get(invoice) ?? '')
  return payment ? [payment] : []
}

function findById(state: State, id: string): unknown {
  const places: Record<string, Map<string, unknown>> = {
    cus: state.customers,
    prod: state.products,
    price: state.prices,
    cs: state.sessions,
    sub: state.subscriptions,
    in: state.invoices,
    inpay: state.invoicePayments,
    pi: state.intents,
    ch: state.charges,
    py: state.charges,
    re: state.refunds,
    du: state.disputes,
    evt: state.events,
    di: state.discounts,
    promo: state.promotionCodes,
    ii: state.invoiceItems,
    cn: state.creditNotes,
    cbtxn: state.balanceEntries,
    txn: state.moneyEntries,
    qt: state.quotes,
    txr: state.taxRates,
    clock: state.testClocks,
    pm: state.paymentMethods,
    seti: state.setupIntents,
  }
  // Products and coupons may have ids of their owner's choice.
  return places[id.split('_')[0] ?? '']?.get(id) ?? state.products.get(id) ?? state.coupons.get(id)
}
