/** The SQL functions behind the jobs. The decisions are theirs; this only carries them. */
import { z } from 'zod'
import { answer, callSql, type Database, nothing } from '../db.ts'

export type JobDatabase = ReturnType<typeof createJobDatabase>

const mails = z.array(
  z.object({ id: z.string(), address: z.string(), subject: z.string(), body: z.string(), attempt: z.number().int() }),
)
export type Mail = z.infer<typeof mails>[number]

/** A range of one month's chain. */
const archivePart = z.object({
  month: z.string(),
  part: z.number().int(),
  first_seq: z.number().int(),
  last_seq: z.number().int(),
  is_complete: z.boolean(),
})
export type ArchivePart = z.infer<typeof archivePart>

export function createJobDatabase(sql: Database) {
  return {
    claimMails: (limit: number) => callSql(sql`select * from private.claim_mails(${limit})`, mails),
    /** Null when the mail was sent, else why not. */
    finishMail: async ({ id, attempt }: Mail, why: string | null): Promise<void> => {
      await callSql(sql`select private.finish_mail(${id}::uuid, ${attempt}, ${why})`, nothing)
    },
    nextArchive: () => callSql(sql`select private.next_audit_archive() as answer`, answer(archivePart.nullable())),
    readEntries: async ({ month, first_seq, last_seq }: ArchivePart): Promise<string[]> => {
      const rows = await callSql(
        sql`select line from private.read_audit_entries(${month}::date, ${first_seq}, ${last_seq}) line`,
        z.array(z.object({ line: z.string() })),
      )
      return rows.map(({ line }) => line)
    },
    recordArchive: async (part: ArchivePart, sha256: string, path: string): Promise<void> => {
      await callSql(sql`select private.record_audit_archive(${sql.json(part)}, ${sha256}, ${path})`, nothing)
    },
    /** False when the month is gone already. */
    dropMonth: (month: string) =>
      callSql(sql`select private.drop_archived_audit_month(${month}::date) as answer`, answer(z.boolean())),
  }
}
