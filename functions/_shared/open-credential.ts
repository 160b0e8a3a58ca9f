/** A credential's secrets, for a test or a sync. Who may, and the trail of it, is SQL's; so this is the one place that asks. */
import { z } from 'zod'
import { answer, callSql, type Queries } from './db.ts'

/** What a user gave; never logged, never answered. */
const fields = z.object({ api_key: z.string(), api_secret: z.string().optional(), passphrase: z.string().optional() })
export type Secrets = z.infer<typeof fields>

const opened = z.discriminatedUnion('opened', [
  z.object({ opened: z.literal(true), version: z.int(), fields }),
  z.object({ opened: z.literal(false), code: z.enum(['not_found', 'credential_unreadable']) }),
])

export const openCredential = (sql: Queries, id: string, purpose: 'test' | 'sync', requestId: string) =>
  callSql(sql`select private.open(${id}, ${purpose}, ${requestId}) as answer`, answer(opened))
