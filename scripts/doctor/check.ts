/** What a check of the doctor is, what it looks at, and what it may find. */
import type postgres from 'postgres'
import { z } from 'zod'
import { StackError } from '../../stack/config.ts'
import type { ManagementApi } from '../shared/management-api.ts'
import type { Reference } from './reference.ts'

/** Whatever the project runs on. What is null or missing this target does not have, or nobody has said. */
export type Target = {
  kind: 'local' | 'hosted' | 'self-hosted'
  /** As a person calls it: never an address with a password. */
  name: string
  /** Role postgres. */
  dbUrl: string
  /** The local stack's alone: hosted Supabase hands out none. */
  superuserUrl: string | null
  apiUrl: string | null
  publishableKey: string | null
  secretKey: string | null
  /** The functions' environment as far as it is known here: .env.production, or what the local stack hands them. */
  values: Partial<Record<string, string>>
  /** The private key of the local stack's tokens, as a JWK. */
  signingKey: Record<string, unknown> | null
  /** Hosted Supabase's. */
  management: ManagementApi | null
  /** Where a test mail goes; null: none is sent. */
  sendMailTo: string | null
  now(): number
}

export type World = Target & {
  sql: postgres.Sql
  /** Runs a check's queries in a transaction that cannot write. */
  look<T>(act: (tx: postgres.TransactionSql) => Promise<T>): Promise<T>
  reference(): Promise<Reference>
}

/** What puts it right: statements for role postgres, a command of a shell, or what a person has to decide. */
export type Mend = { kind: 'sql' | 'shell' | 'advice'; text: string }
export type Problem = { what: string; mend: Mend }
/** `accepted` is what was found, too, and is right by DOCTOR_ACCEPTED. */
export type Outcome = { ok: string } | { skip: string } | { wrong: Problem[]; accepted?: string[] }

export type Check = {
  name: string
  /** What it makes sure of, and how what it finds is mended: docs/doctor.md is made of these. */
  tells: string
  mends: string
  find(world: World): Promise<Outcome>
}

/** What advisors say that nothing of ours mends: it needs a plan or an add-on, or would shut the functions out. */
export const acceptable = [
  'auth_leaked_password_protection',
  'auth_insufficient_mfa_options',
  'pitr_not_enabled',
  'network_restrictions_not_set',
] as const

export const acceptedNames = z
  .string()
  .transform((text) => text.split(',').map((name) => name.trim()))
  .pipe(z.array(z.enum(acceptable, `may name ${acceptable.join(', ')} and nothing else`)))

/** Throws when it names something that nobody may accept. */
export function acceptedBy({ DOCTOR_ACCEPTED }: Target['values']): string[] {
  const { data, error } = acceptedNames.optional().safeParse(DOCTOR_ACCEPTED || undefined)
  if (error) throw new StackError(`DOCTOR_ACCEPTED ${error.issues[0]?.message}.`)
  return data ?? []
}

export const bySql = (text: string): Mend => ({ kind: 'sql', text })
export const byShell = (text: string): Mend => ({ kind: 'shell', text })
export const byHand = (text: string): Mend => ({ kind: 'advice', text })

export const judge = (problems: Problem[], ok: string): Outcome => (problems.length > 0 ? { wrong: problems } : { ok })

/** The CLI counts this one among its experiments still. */
export const enforceSsl = (ref: string): string =>
  `npx supabase ssl-enforcement update --experimental --remote=${ref} --enable-db-ssl-enforcement`

/** A text as SQL writes it. */
export const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`
