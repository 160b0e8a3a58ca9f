/** The SQL functions behind the links in mails about changes. What a link does, and that it does it once, is theirs. */
import { z } from 'zod'
import { answer, callSql, type Database } from '../db.ts'
import { sha256 } from '../sha256.ts'

const change = z.object({
  state: z.enum(['open', 'used', 'expired', 'undone']),
  change: z.string(),
  title: z.string(),
  undo: z.string(),
  changed_at: z.string(),
  expires_at: z.string(),
})
export type Change = z.infer<typeof change>
export type AccountDatabase = ReturnType<typeof createAccountDatabase>

/** A token leaves as its hash: no statement has what a link can do. */
export function createAccountDatabase(sql: Database) {
  return {
    show: async (token: string): Promise<Change> => {
      const hash = await sha256(token)
      return callSql(sql`select private.show_undo_link(${hash}) as answer`, answer(change))
    },
    undo: async (token: string): Promise<Change> => {
      const hash = await sha256(token)
      return callSql(sql`select private.use_undo_link(${hash}) as answer`, answer(change))
    },
  }
}
