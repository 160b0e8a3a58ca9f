/** The SQL functions behind an AI call. The decisions are theirs; this only carries them, many at a time when there are many. */
import { z } from 'zod'
import { createBatches } from '../batch-calls.ts'
import { answer, callSql, type Database, nothing } from '../db.ts'
import { AppError, toAppError } from '../errors.ts'
import {
  type AdmissionRequest,
  type AttemptReport,
  admission,
  anonymousVerdict,
  type LedgerCaller,
  modelList,
  type Outcome,
  settlement,
} from './ledger-contract.ts'

/**
 * While one statement commits, the next one gathers: with four, each carries half as many calls and costs nearly as much. Rarer
 * questions find the pool's other connections free.
 */
const batchesInFlight = 2
/** Answers that are kept have up to 1 MB each, and a statement is in memory several times. */
const answersInBatch = 4

/** An answer that we do not understand is no permission, and neither is none. */
const asLedger = { otherwise: 'accounting_unavailable', deadlineMs: 8_000 } as const
const list = answer(z.array(z.unknown()))

/** Parameters are JSON, because postgres.js 3.4.9 sends a null inside an array as the text "NULL". */
export function createLedger(sql: Database) {
  const inBatches = createBatches(batchesInFlight)

  const admitted = inBatches(
    async (requests: AdmissionRequest[]) =>
      callSql(sql`select private.admit_ai_calls(${sql.json(requests)}) as answer`, list, asLedger),
    isOneCallsFault,
  )
  const started = inBatches(async (ids: string[]) => {
    const uuids = sql`array(select id::uuid from jsonb_array_elements_text(${sql.json(ids)}) as id)`
    await callSql(sql`select private.start_ai_calls(${uuids})`, nothing, asLedger)
    return ids
  }, isOneCallsFault)
  const settle = async (settlements: { call_id: string; outcome: Outcome }[]) =>
    callSql(sql`select private.settle_ai_calls(${sql.json(settlements)}) as answer`, list, asLedger)
  const settled = inBatches(settle, isOneCallsFault)
  const settledWithAnswer = inBatches(settle, isOneCallsFault, answersInBatch)

  return {
    admit: async (request: AdmissionRequest) => understood(admission, await admitted(request)),

    start: async (callId: string) => {
      await started(callId)
    },

    settle: async (callId: string, outcome: Outcome) => {
      const send = outcome.response === null ? settled : settledWithAnswer
      return understood(settlement, await send({ call_id: callId, outcome }))
    },

    listModels: (caller: LedgerCaller) =>
      callSql(sql`select private.list_ai_models(${sql.json(caller)}) as answer`, answer(modelList), asLedger),

    reportAttempts: async (reports: AttemptReport[]) => {
      await callSql(sql`select private.report_ai_attempts(${sql.json(reports)})`, nothing, asLedger)
    },

    countAnonymous: (ip: string, route: string) =>
      callSql(
        sql`select private.count_anonymous_request(${ip}::inet, ${route}) as answer`,
        answer(anonymousVerdict),
        asLedger,
      ),

    reportSignatureFailure: async (keyHash: string, ip: string | null) => {
      await callSql(
        sql`select private.report_signature_failure(decode(${keyHash}, 'hex'), ${ip}::inet)`,
        nothing,
        asLedger,
      )
    },

    /** Null when the Vault has no secret of this name. */
    providerSecret: (name: string) =>
      callSql(sql`select private.provider_secret(${name}) as answer`, answer(z.string().nullable()), asLedger),
  }
}

/** One of many answers that came together. */
function understood<T>(schema: z.ZodType<T>, one: unknown): T {
  const { data, error } = schema.safeParse(one)
  if (error) throw new AppError('accounting_unavailable', { cause: error })
  return data
}

/**
 * An error that Postgres itself raised, and not because the connection (08) or the server (57P) went away: nothing was done, and
 * any one of the calls may be the reason. After a lost connection or our own deadline it is unknown what was done.
 */
export function isOneCallsFault(error: unknown): boolean {
  const { cause } = toAppError(error).details
  if (!(cause instanceof Error) || cause.name !== 'PostgresError' || !('code' in cause)) return false
  return typeof cause.code === 'string' && !/^(?:08|57P)/.test(cause.code)
}
