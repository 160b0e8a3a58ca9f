/** The SQL functions behind an AI call. The decisions are theirs; this only carries them, many at a time when there are many. */
import { z } from 'zod'
import { createBatches } from '../batch-calls.ts'
import { askLedger, type Database } from '../db.ts'
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

/** Parameters are JSON, because postgres.js 3.4.9 sends a null inside an array as the text "NULL". */
export function createLedger(sql: Database) {
  const inBatches = createBatches(batchesInFlight)

  const admitted = inBatches(
    async (requests: AdmissionRequest[]) =>
      list(await askLedger(sql`select private.admit_ai_calls(${sql.json(requests)}) as answer`)),
    isOneCallsFault,
  )
  const started = inBatches(async (ids: string[]) => {
    const uuids = sql`array(select id::uuid from jsonb_array_elements_text(${sql.json(ids)}) as id)`
    await askLedger(sql`select private.start_ai_calls(${uuids}) as answer`)
    return ids
  }, isOneCallsFault)
  const settle = async (settlements: { call_id: string; outcome: Outcome }[]) =>
    list(await askLedger(sql`select private.settle_ai_calls(${sql.json(settlements)}) as answer`))
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

    listModels: async (caller: LedgerCaller) =>
      understood(modelList, await askLedger(sql`select private.list_ai_models(${sql.json(caller)}) as answer`)),

    reportAttempts: async (reports: AttemptReport[]) => {
      await askLedger(sql`select private.report_ai_attempts(${sql.json(reports)}) as answer`)
    },

    countAnonymous: async (ip: string, route: string) =>
      understood(
        anonymousVerdict,
        await askLedger(sql`select private.count_anonymous_request(${ip}::inet, ${route}) as answer`),
      ),

    reportSignatureFailure: async (keyHash: string, ip: string | null) => {
      await askLedger(sql`select private.report_signature_failure(decode(${keyHash}, 'hex'), ${ip}::inet) as answer`)
    },

    /** Null when the Vault has no secret of this name. */
    providerSecret: async (name: string) =>
      understood(z.string().nullable(), await askLedger(sql`select private.provider_secret(${name}) as answer`)),
  }
}

const list = (answer: unknown): unknown[] => understood(z.array(z.unknown()), answer)

/** An answer that we do not understand is no permission. */
function understood<T>(schema: z.ZodType<T>, answer: unknown): T {
  const { data, error } = schema.safeParse(answer)
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
