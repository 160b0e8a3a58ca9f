/** What the tests of billing share: something to buy, readings as the functions make them, and what came of them. */
import { type Account, type Accounts, connect, newAccount, racing, type Sql, type Tx } from './support.ts'

export type Shop = {
  account: Account
  customer: string
  month: string
  year: string
  pack: string
  planPrice: string
  creditPack: string
}
export type Reading = { object: string; id: string; read_at: string; [field: string]: unknown }
type Fields = { [field: string]: unknown }

/** Unix seconds of day `n`, counted from ten days ago: some days have passed and some are to come. */
const start = Math.floor(Date.now() / 1000) - 10 * 86_400
export const day = (n: number): number => start + Math.round(n * 86_400)
/** When the nth reading was begun. */
export const readAt = (n: number): string => new Date((day(0) + n) * 1000).toISOString()
export const id = (prefix: string): string => `${prefix}_${crypto.randomUUID().replaceAll('-', '').slice(0, 16)}`

/** A plan for 12.00 a month (1000 credits that expire) or 120.00 a year (none), and 500 credits for 5.00 that last a year. */
async function newCatalogue(sql: Sql | Tx): Promise<Omit<Shop, 'account' | 'customer'>> {
  const [planPrice, creditPack] = [id('sql'), id('sql')]
  const [month, year, pack] = [id('price'), id('price'), id('price')]
  await sql`
    insert into public.plan_prices (id, plan_id, interval, amount, trial_days, credits) values
      (${planPrice}, 'premium', 'month', 1200, 7, 1000), (${`${planPrice}_y`}, 'premium', 'year', 12000, 7, 0)`
  await sql`
    insert into public.credit_packs (id, name, credits, amount, expires_after_days)
    values (${creditPack}, '500 credits', 500, 500, 365)`
  await sql`
    insert into private.stripe_prices (id, plan_price_id, credit_pack_id, product_id, livemode) values
      (${month}, ${planPrice}, null, 'prod_1', false), (${year}, ${`${planPrice}_y`}, null, 'prod_1', false),
      (${pack}, null, ${creditPack}, 'prod_2', false)`
  return { month, year, pack, planPrice, creditPack }
}

export async function newShop(sql: Sql | Tx, { linked = true, account }: { linked?: boolean; account?: Account } = {}) {
  const shop: Shop = { account: account ?? (await newAccount(sql)), customer: id('cus'), ...(await newCatalogue(sql)) }
  if (linked) await linkCustomer(sql, shop)
  return shop
}
export const linkCustomer = async (sql: Sql | Tx, shop: Shop): Promise<void> =>
  void (await sql`
    insert into private.stripe_customers (id, user_id, livemode) values (${shop.customer}, ${shop.account.id}, false)`)

/** The same shop for another user. */
export async function nextCustomer(sql: Sql | Tx, shop: Shop, account?: Account): Promise<Shop> {
  const next = { ...shop, account: account ?? (await newAccount(sql)), customer: id('cus') }
  await linkCustomer(sql, next)
  return next
}

/** A race in a committed shop, of which nothing is left. */
export async function selling<T>(
  connections: number,
  race: (sql: Sql, shop: Shop, accounts: Accounts) => Promise<T>,
): Promise<T> {
  const sql = connect()
  const catalogue = await newCatalogue(sql)
  try {
    return await racing(connections, async (racers, accounts) => {
      const shop = { ...catalogue, account: await accounts(), customer: id('cus') }
      await linkCustomer(racers, shop)
      return race(racers, shop, accounts)
    })
  } finally {
    await sql`delete from private.stripe_prices where plan_price_id like ${`${catalogue.planPrice}%`} or id = ${catalogue.pack}`
    await sql`delete from public.plan_prices where id like ${`${catalogue.planPrice}%`}`
    await sql`delete from public.credit_packs where id = ${catalogue.creditPack}`
    await sql.end()
  }
}

// Readings -------------------------------------------------------------------------------------------------------------

const reading = (shop: Shop, object: string, n: number, fields: Fields): Reading => ({
  object,
  id: id(object),
  read_at: readAt(n),
  livemode: false,
  customer_id: shop.customer,
  deleted: false,
  ...fields,
})

export const customer = (shop: Shop, n: number, fields: Fields = {}): Reading =>
  reading(shop, 'customer', n, { id: shop.customer, user_id: shop.account.id, ...fields })

export const subscription = (shop: Shop, n: number, fields: Fields = {}): Reading =>
  reading(shop, 'subscription', n, {
    user_id: shop.account.id,
    status: 'active',
    items: [item(shop.month)],
    cancel_at_period_end: false,
    cancel_at: null,
    canceled_at: null,
    ended_at: null,
    trial_start: null,
    trial_end: null,
    started_at: day(0),
    is_paused: false,
    latest_invoice_id: null,
    ...fields,
  })

export const item = (price: string, from = day(0), to = day(30), quantity = 1) => ({
  ...{ id: id('si'), price_id: price, quantity, current_period_start: from, current_period_end: to },
})

/** An invoice for a month, paid by one payment intent unless told. */
export const invoice = (shop: Shop, n: number, fields: Fields = {}): Reading => {
  const { status = 'paid', total = 1200, payment_intent_id = id('pi') } = fields
  const paid = status === 'paid'
  const payment = { id: id('inpay'), status: paid ? 'paid' : 'open', payment_intent_id, amount_paid: paid ? total : 0 }
  return reading(shop, 'invoice', n, {
    subscription_id: null,
    status,
    billing_reason: 'subscription_cycle',
    currency: 'usd',
    total,
    amount_due: total,
    amount_paid: paid ? total : 0,
    attempt_count: 1,
    next_payment_attempt: null,
    due_at: null,
    hosted_invoice_url: 'https://pay.example.com/i/1',
    created: day(0),
    paid_at: paid ? day(0) + 60 : null,
    lines: [line(shop.month)],
    payments: total === 0 ? [] : [payment],
    ...fields,
  })
}
export const line = (price: string, fields: Fields = {}) => ({
  ...{ id: id('il'), price_id: price, quantity: 1, amount: 1200, is_proration: false, period_start: day(0) },
  ...{ period_end: day(30), ...fields },
})

/** A complete and paid checkout of the pack. */
export const session = (shop: Shop, n: number, fields: Fields = {}): Reading =>
  reading(shop, 'checkout_session', n, {
    user_id: shop.account.id,
    checkout_id: crypto.randomUUID(),
    client_reference_id: shop.account.id,
    mode: 'payment',
    status: 'complete',
    payment_status: 'paid',
    payment_intent_status: 'succeeded',
    amount_total: 500,
    currency: 'usd',
    payment_intent_id: id('pi'),
    invoice_id: null,
    subscription_id: null,
    price_ids: [shop.pack],
    created: day(0),
    paid_at: day(0) + 30,
    ...fields,
  })

export const refund = (shop: Shop, n: number, intent: unknown, amount: number, fields: Fields = {}): Reading =>
  reading(shop, 'refund', n, {
    ...{
      payment_intent_id: intent,
      charge_id: id('ch'),
      amount,
      currency: 'usd',
      status: 'succeeded',
      created: day(1),
    },
    ...fields,
  })

export const dispute = (shop: Shop, n: number, intent: unknown, amount: number, fields: Fields = {}): Reading =>
  reading(shop, 'dispute', n, {
    ...{ payment_intent_id: intent, charge_id: id('ch'), amount, currency: 'usd', status: 'needs_response' },
    ...{ reason: 'fraudulent', created: day(2), ...fields },
  })

/** The payment intent that paid an invoice. */
export const intentOf = (paid: Reading): unknown => {
  const payments: unknown = paid.payments
  return Array.isArray(payments) ? payments[0]?.payment_intent_id : paid.payment_intent_id
}

// What is done with them -----------------------------------------------------------------------------------------------

export async function apply(sql: Sql | Tx, ...readings: Reading[]): Promise<string[]> {
  const rows = await sql`
    select object || ' ' || outcome as outcome from private.apply_stripe_readings(${JSON.stringify(readings)}::text::jsonb)`
  return rows.map((row) => row.outcome)
}

/** An event about something of the customer's, that waits longer than any other. */
export async function receive(sql: Sql | Tx, shop: Shop, fields: Fields = {}): Promise<string> {
  const event = {
    id: id('evt_sql'),
    type: 'invoice.paid',
    object: 'invoice',
    object_id: id('in'),
    account: null,
    ...fields,
  }
  const object = { id: event.object_id, customer: shop.customer, email: 'a@example.com' }
  await receiveAgain(sql, { ...event, payload: { id: event.id, data: { object } } })
  await pass(sql, event.id, '0')
  return event.id
}
/** As if that much time had passed for an event; once it is due it waits longer than any other. */
export const pass = async (sql: Sql | Tx, event: string, time: string): Promise<void> =>
  void (await sql`
    update private.stripe_events set next_attempt_at = next_attempt_at - ${time}::interval -
      case when next_attempt_at - ${time}::interval <= now() then interval '100 years' else interval '0' end
    where id = ${event}`)
export async function receiveAgain(sql: Sql | Tx, event: Fields): Promise<boolean> {
  const { id, type, account = null, object = null, object_id = null, payload = {} } = event
  const about = {
    id,
    type,
    account,
    object,
    object_id,
    api_version: '2026-10-28.endive',
    livemode: false,
    created: 1790000000,
  }
  const [row] = await sql`
    select private.receive_stripe_events(${JSON.stringify([{ about, payload }])}::text::jsonb) as fresh`
  return row?.fresh.length === 1
}

export type Claimed = { id: string; attempt: number }
/** Takes so many events. What others have in the inbox is not ours to see. */
export async function claim(sql: Sql | Tx, size = 1): Promise<Claimed[]> {
  const rows = await sql`select id, attempt from private.claim_stripe_events(${size})`
  return rows.filter((row) => row.id.startsWith('evt_sql_')).map(({ id, attempt }) => ({ id, attempt }))
}
export async function claimOne(sql: Sql | Tx): Promise<Claimed> {
  const [claimed] = await claim(sql)
  if (!claimed) throw new Error('no event was due')
  return claimed
}
export const finish = async (sql: Sql | Tx, { id, attempt }: Claimed, ...readings: Reading[]): Promise<string> =>
  (await finishTogether(sql, [{ id, attempt, readings }]))[id] ?? ''
export const finishTogether = async (
  sql: Sql | Tx,
  events: (Claimed & { readings: Reading[] })[],
): Promise<Record<string, string>> =>
  (await sql`select private.apply_stripe_events(${JSON.stringify(events)}::text::jsonb) as states`)[0]?.states
export const fail = async (sql: Sql | Tx, { id, attempt }: Claimed, error = 'Stripe did not answer'): Promise<string> =>
  (await sql`select private.fail_stripe_event(${id}, ${attempt}, ${error}) as state`)[0]?.state

export async function eventOf(sql: Sql | Tx, event: string): Promise<Fields> {
  const [row] = await sql`
    select state, attempts, error, round(extract(epoch from next_attempt_at - now()))::float8 as rest
    from private.stripe_events where id = ${event}`
  return { ...row }
}

// What came of it ------------------------------------------------------------------------------------------------------

/** The ledger without the sign-up, such as 'grant 1000': what was granted, taken back, given back, expired. */
export async function ledgerOf(sql: Sql | Tx, { account }: Shop): Promise<string[]> {
  const rows = await sql`
    select kind || ' ' || amount as entry from public.credit_entries where user_id = ${account.id} and kind <> 'sign_up'
    order by array_position(array['grant', 'clawback', 'refund', 'expiry'], kind), amount`
  return rows.map((row) => row.entry)
}

export async function subscriptionOf(sql: Sql | Tx, id: string): Promise<Fields> {
  const [row] = await sql`
    select user_id, status, plan_id, plan_price_id, quantity::int, cancel_at_period_end,
      extract(epoch from current_period_end)::int as ends, extract(epoch from past_due_since)::int as past_due_since,
      extract(epoch from ended_at)::int as ended
    from public.subscriptions where id = ${id}`
  return { ...row }
}

export async function paymentOf(sql: Sql | Tx, id: string): Promise<Fields> {
  const [row] = await sql`
    select status, amount::int, credits::int, amount_refunded::int as refunded, amount_disputed::int as disputed,
      credits_clawed_back::int as clawed_back, pay_url, description
    from public.payments where id = ${id}`
  return { ...row }
}

/** Everything that billing has of these users, without what depends on when it was written. */
export async function everythingOf(sql: Sql | Tx, users: string[]): Promise<Fields> {
  const [row] = await sql`
    select
      (select jsonb_agg(to_jsonb(s) - 'updated_at' order by s.id) from public.subscriptions s where s.user_id = any (${users}::uuid[])) as subscriptions,
      (select jsonb_agg(to_jsonb(e) order by e.user_id, e.starts_at) from private.entitlements e where e.user_id = any (${users}::uuid[])) as entitlements,
      (select jsonb_agg(to_jsonb(p) - 'updated_at' order by p.id) from public.payments p where p.user_id = any (${users}::uuid[])) as payments,
      (select jsonb_agg(to_jsonb(o) order by o.payment_id, o.line_id) from private.paid_periods o join public.payments p on p.id = o.payment_id
        where p.user_id = any (${users}::uuid[])) as paid_periods,
      (select jsonb_agg(to_jsonb(r) - 'updated_at' order by r.id) from public.refunds r where r.user_id = any (${users}::uuid[])) as refunds,
      (select jsonb_agg(to_jsonb(d) - 'updated_at' order by d.id) from public.disputes d where d.user_id = any (${users}::uuid[])) as disputes,
      (select jsonb_agg(to_jsonb(c) - 'created_at' order by c.id) from private.stripe_customers c where c.user_id = any (${users}::uuid[])) as customers,
      (select jsonb_agg(to_jsonb(e) - 'id' - 'created_at' - 'balance_after' order by e.user_id, e.idempotency_key) from public.credit_entries e
        where e.user_id = any (${users}::uuid[]) and e.kind = 'grant') as grants,
      (select jsonb_agg(to_jsonb(l) order by l.user_id, l.kind, l.expires_at) from (
        select user_id, kind, expires_at, sum(remaining) as remaining from private.credit_lots
        where user_id = any (${users}::uuid[]) group by user_id, kind, expires_at) l) as lots,
      (select jsonb_object_agg(a.user_id, array[a.balance, a.unburned]) from private.accounts a where a.user_id = any (${users}::uuid[])) as balances`
  return { ...row }
}
