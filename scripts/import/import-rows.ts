/** The import itself: every row comes to one outcome, and as many are under way at a time as allowed. */
import { StackError } from '../../stack/config.ts'
import { checkRow, isUnderAge, type NewAccount, takenNames } from './check-row.ts'
import type { Created, Directory, Policy } from './directory.ts'
import { notTaken } from './not-taken.ts'
import type { FirebaseParameters } from './password-hash.ts'
import type { Row } from './read-rows.ts'

export const outcomes = [
  'created',
  'would_create',
  'already_imported',
  'duplicate',
  'exists',
  'refused',
  'failed',
] as const
type Outcome = (typeof outcomes)[number]
/** would_create: of a dry run. suspended: it arrives so. notTaken: what was left behind of a row that has its account, or would have. */
export type Result = {
  row: number
  digest: string
  email: string
  outcome: Outcome
  reason: string
  suspended?: boolean
  notTaken?: string[]
}

export type World = {
  directory: Directory
  policy: Policy
  firebase: FirebaseParameters | undefined
  dryRun: boolean
  concurrency: number
  /** Finished before a crash: not asked again. */
  isDone: (row: Row) => boolean
  onResult: (result: Result) => void
}

/** So many failures in a row mean that the service, not the data, is the problem. */
const tooManyFailures = 20

export async function importRows(rows: AsyncGenerator<Row>, world: World): Promise<void> {
  const seen = { emails: new Map<string, number>(), ids: new Map<string, number>() }
  let failures = 0
  const worker = async () => {
    for (let next = await rows.next(); !next.done; next = await rows.next()) {
      // From here to the first await nothing else runs, so the first of two equal rows in the file is the first seen.
      const result = await importRow(next.value, seen, world)
      world.onResult(result)
      failures = result.outcome === 'failed' ? failures + 1 : 0
      if (failures >= tooManyFailures) {
        await rows.return(undefined)
        throw new StackError(
          `${failures} rows in a row failed, the last one because ${result.reason}. Stopped; run again to go on.`,
        )
      }
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: world.concurrency }, worker))
  const broken = ended.find((end) => end.status === 'rejected')
  if (broken) throw broken.reason
}

type Seen = { emails: Map<string, number>; ids: Map<string, number> }

async function importRow(row: Row, seen: Seen, world: World): Promise<Result> {
  const end = (outcome: Outcome, email = '', reason = ''): Result => ({
    row: row.number,
    digest: row.digest,
    email,
    outcome,
    reason,
  })
  if ('unreadable' in row) return end('refused', '', row.unreadable)
  const account = checkRow(row.fields, world.firebase)
  if ('refused' in account) return end('refused', emailIn(row.fields), account.refused)
  const { email } = account
  const problem = refusalBy(world.policy, account)
  if (problem !== undefined) return end('refused', email, problem)
  const earlier = seen.emails.get(email) ?? seen.ids.get(account.id)
  if (earlier !== undefined) return end('duplicate', email, `the same account as row ${earlier}`)
  seen.emails.set(email, row.number)
  seen.ids.set(account.id, row.number)
  const told = (...[outcome, reason]: [Outcome, string]): Result => {
    const isNew = outcome === 'created' || outcome === 'would_create'
    if (!isNew && outcome !== 'already_imported') return end(outcome, email, reason)
    const suspended = isNew && account.suspended !== undefined
    const state = account.suspended && `${suspended ? 'suspended' : 'not looked at again'}: ${account.suspended}`
    const reasons = [reason, state].filter(Boolean).join('; ')
    return { ...end(outcome, email, reasons), suspended, notTaken: notTaken(row.fields, takenNames) }
  }
  if (world.isDone(row)) return told('created', 'before the interruption')
  const answer = await (world.dryRun ? world.directory.look(account) : world.directory.create(account))
  return world.dryRun && answer === 'created' ? told('would_create', '') : told(...outcomeOf(answer))
}

function outcomeOf(answer: Created): [Outcome, string] {
  if (answer === 'created') return ['created', '']
  if (answer === 'known') return ['already_imported', 'an earlier import made this account']
  if (answer === 'taken') return ['exists', 'an account with this address was there before']
  return ['failed', answer.failed]
}

function refusalBy(policy: Policy, account: NewAccount): string | undefined {
  if (account.plan !== undefined && !policy.plans.has(account.plan)) return 'plan: there is no such plan'
  if (account.birthDate !== undefined && policy.refusesUnderAge && isUnderAge(account.birthDate, policy.minimumAge))
    return `birth_date: younger than ${policy.minimumAge}`
  return undefined
}

/** For the report, so that a person finds the row. */
function emailIn(fields: unknown): string {
  const email = typeof fields === 'object' && fields !== null && 'email' in fields ? fields.email : ''
  return typeof email === 'string' ? email.slice(0, 255) : ''
}
