/** The SQL functions behind the jobs. The decisions are theirs; this only carries them. */
import { z } from 'zod'
import type { Database } from '../db.ts'
import type { ArchivePart, JobsWorld, Mail } from './world.ts'

const archivePart = z.object({
  month: z.string(),
  part: z.number().int(),
  first_seq: z.number().int(),
  last_seq: z.number().int(),
  is_complete: z.boolean(),
})
const mails = z.array(
  z.object({ id: z.string(), address: z.string(), subject: z.string(), body: z.string(), attempt: z.number().int() }),
)

type JobDatabase = Pick<
  JobsWorld,
  'claimMails' | 'finishMail' | 'nextArchive' | 'readEntries' | 'recordArchive' | 'dropMonth'
>

export function createJobDatabase(sql: Database): JobDatabase {
  return {
    claimMails: async (limit) => mails.parse([...(await sql`select * from private.claim_mails(${limit})`)]),
    finishMail: async (mail: Mail, error) => {
      await sql`select private.finish_mail(${mail.id}::uuid, ${mail.attempt}, ${error})`
    },
    nextArchive: async () => {
      const [row] = await sql`select private.next_audit_archive() as part`
      return archivePart.nullable().parse(row?.part ?? null)
    },
    readEntries: async ({ month, first_seq, last_seq }: ArchivePart) => {
      const rows = await sql<{ line: string }[]>`
        select line from private.read_audit_entries(${month}::date, ${first_seq}, ${last_seq}) line`
      return rows.map(({ line }) => line)
    },
    recordArchive: async (part, sha256, path) => {
      await sql`select private.record_audit_archive(${sql.json(part)}, ${sha256}, ${path})`
    },
    dropMonth: async (month) => {
      const [row] = await sql`select private.drop_archived_audit_month(${month}::date) as dropped`
      return row?.dropped === true
    },
  }
}
