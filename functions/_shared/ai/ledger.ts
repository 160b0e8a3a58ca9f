/** The four SQL functions behind an AI call. The decisions are theirs; this only carries them. */
import type { z } from 'zod'
import { askLedger, type Database } from '../db.ts'
import { AppError } from '../errors.ts'
import {
  type AdmissionRequest,
  admission,
  type LedgerCaller,
  modelList,
  type Outcome,
  settlement,
} from './ledger-contract.ts'

export function createLedger(sql: Database) {
  return {
    admit: async (request: AdmissionRequest) =>
      understood(admission, await askLedger(sql`select private.admit_ai_call(${sql.json(request)}) as answer`)),

    start: async (callId: string) => {
      await askLedger(sql`select private.start_ai_call(${callId}::uuid)`)
    },

    settle: async (callId: string, outcome: Outcome) =>
      understood(
        settlement,
        await askLedger(sql`select private.settle_ai_call(${callId}::uuid, ${sql.json(outcome)}) as answer`),
      ),

    listModels: async (caller: LedgerCaller) =>
      understood(modelList, await askLedger(sql`select private.list_ai_models(${sql.json(caller)}) as answer`)),
  }
}

/** An answer that we do not understand is no permission. */
function understood<T>(schema: z.ZodType<T>, answer: unknown): T {
  const { data, error } = schema.safeParse(answer)
  if (error) throw new AppError('accounting_unavailable', { cause: error })
  return data
}
