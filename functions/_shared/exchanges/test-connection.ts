/** Tries a key: whether it works, and what it may do. */
import { z } from 'zod'
import type { Connection, ReadMethod } from './connect.ts'
import { ExchangeFailure, type Reason } from './failure.ts'

/** `permissions` are the exchange's own words. Null: this exchange does not tell. */
type KeyPermissions = { permissions: string[]; can_withdraw: boolean | null; can_trade: boolean | null }
export type TestResult =
  | ({ ok: true } & KeyPermissions)
  | { ok: false; reason: Reason; message: string; detail: string }

type Found = KeyPermissions & { can_read: boolean }
type Probe = { method: ReadMethod; answer: z.ZodType<Found> }

/** Where each exchange says what a key may do; none of them needs more than the key itself. */
const probes: Record<string, Probe> = {
  /** GET /sapi/v1/account/apiRestrictions. `enableReading` is always true for a key that may ask. */
  binance: {
    method: 'sapiGetAccountApiRestrictions',
    answer: z.record(z.string(), z.unknown()).transform((flags) => {
      const permissions = Object.keys(flags).filter((name) => /^(enable|permits)/.test(name) && flags[name] === true)
      return {
        permissions,
        can_read: permissions.includes('enableReading'),
        can_withdraw: permissions.includes('enableWithdrawals'),
        can_trade: permissions.some((name) => /Trad(e|ing)|Margin|Futures|Options/.test(name)),
      }
    }),
  },
  /** GET /api/v3/brokerage/key_permissions. `can_transfer` covers withdrawing. */
  coinbase: {
    method: 'v3PrivateGetBrokerageKeyPermissions',
    answer: z
      .object({ can_view: z.boolean(), can_trade: z.boolean(), can_transfer: z.boolean() })
      .transform((flags) => ({
        permissions: Object.entries(flags).flatMap(([name, given]) => (given ? [name] : [])),
        can_read: flags.can_view,
        can_withdraw: flags.can_transfer,
        can_trade: flags.can_trade,
      })),
  },
  /** POST /0/private/GetApiKeyInfo, which any key may call. TradesHistory needs one of the two query permissions. */
  kraken: {
    method: 'privatePostGetApiKeyInfo',
    answer: z.object({ result: z.object({ permissions: z.array(z.string()) }) }).transform(({ result }) => {
      const { permissions } = result
      const has = (...names: string[]) => names.some((name) => permissions.includes(name))
      return {
        permissions,
        can_read: has('query-funds') && has('query-open-trades', 'query-closed-trades'),
        can_withdraw: has('withdraw-funds'),
        can_trade: has('modify-trades', 'close-trades'),
      }
    }),
  },
}

const clockToleranceMs = 20_000

export async function testConnection(connection: Connection): Promise<TestResult> {
  try {
    const { can_read, ...found } = await askPermissions(connection)
    if (!can_read) throw new ExchangeFailure('missing_permission', 'the key may not read')
    return { ok: true, ...found }
  } catch (error) {
    if (!(error instanceof ExchangeFailure)) throw error
    const { reason, message, detail } = (await isClockWrong(connection, error))
      ? new ExchangeFailure('clock_skew', error.detail)
      : error
    return { ok: false, reason, message, detail }
  }
}

async function askPermissions(connection: Connection): Promise<Found> {
  const probe = probes[connection.exchange]
  if (probe) return await connection.call(probe.answer, probe.method)
  // An exchange that we have no probe for: that it shows the balance says that the key can read, and no more.
  await connection.call(z.unknown(), 'fetchBalance')
  return { permissions: ['read'], can_read: true, can_withdraw: null, can_trade: null }
}

/** Some exchanges, Coinbase among them, answer a wrong clock as they answer a wrong key: then we compare the clocks. */
async function isClockWrong(connection: Connection, { reason }: ExchangeFailure): Promise<boolean> {
  if (reason !== 'wrong_key') return false
  const theirs = await connection.call(z.number(), 'fetchTime').catch(() => undefined)
  return theirs !== undefined && Math.abs(theirs - connection.now()) > clockToleranceMs
}
