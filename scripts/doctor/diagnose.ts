/** Runs the checks against a target, one after the other: what each found is a line for people and an object for programs. */
import { StackError } from '../../stack/config.ts'
import { connectDatabase } from '../shared/connect-database.ts'
import { explainError } from '../shared/explain-error.ts'
import { ofApi } from './api.ts'
import { byHand, type Check, type Mend, type Target, type World } from './check.ts'
import { ofDatabase } from './database.ts'
import { ofHooks } from './hooks.ts'
import { ofJobs } from './jobs.ts'
import { ofMail } from './mail.ts'
import { ofMoney } from './money.ts'
import { ofPlatform } from './platform.ts'
import { readReference } from './reference.ts'
import { ofSchema } from './schema.ts'

/** In the order in which they run: what others rest on comes first. */
export const checks: Check[] = [
  ...ofDatabase,
  ...ofSchema,
  ...ofHooks,
  ...ofApi,
  ...ofJobs,
  ...ofMail,
  ...ofMoney,
  ...ofPlatform,
]

/** One for a check that is ok or skipped; one for each thing that is wrong. */
export type Finding = { check: string; state: 'ok' | 'wrong' | 'skip'; what: string; mend: Mend | null }

type Options = { only?: string[]; onFinding?: (finding: Finding) => void }

/** Throws when the database cannot be reached, or when `only` names no check. */
export async function diagnose(target: Target, { only, onFinding }: Options = {}): Promise<Finding[]> {
  const unknown = only?.filter((name) => !checks.some((check) => check.name === name)) ?? []
  if (unknown.length > 0) throw new StackError(`There is no check ${unknown.join(', ')}; --list shows all.`)
  const sql = connectDatabase(target.dbUrl, { max: 2, ca: target.values.DB_CA_CERT })
  try {
    await sql`select 1`
    const look: World['look'] = async (act) => {
      const found: { value?: unknown } = {}
      await sql.begin('read only', async (tx) => {
        await tx`set local search_path = ''`
        await tx`set local statement_timeout = '60s'`
        found.value = await act(tx)
      })
      return found.value as Awaited<ReturnType<typeof act>>
    }
    const world: World = { ...target, sql, look, reference: readReference }
    const findings: Finding[] = []
    for (const check of checks.filter(({ name }) => only === undefined || only.includes(name))) {
      const found = await findingsOf(check, world)
      for (const finding of found) onFinding?.(finding)
      findings.push(...found)
    }
    return findings
  } finally {
    await sql.end()
  }
}

async function findingsOf({ name, find }: Check, world: World): Promise<Finding[]> {
  try {
    const outcome = await find(world)
    if ('ok' in outcome) return [{ check: name, state: 'ok', what: outcome.ok, mend: null }]
    if ('skip' in outcome) return [{ check: name, state: 'skip', what: outcome.skip, mend: null }]
    const { wrong, accepted = [] } = outcome
    return [
      ...accepted.map((what): Finding => ({ check: name, state: 'ok', what: `${what} (accepted)`, mend: null })),
      ...wrong.map(({ what, mend }): Finding => ({ check: name, state: 'wrong', what, mend })),
    ]
  } catch (error) {
    const what = `it could not be checked: ${explainError(error).split('\n')[0]}`
    return [{ check: name, state: 'wrong', what, mend: byHand('Mend what is wrong above, and run the doctor again.') }]
  }
}

const words = { ok: 'ok   ', skip: 'skip ', wrong: 'WRONG' }
const prompts = { sql: 'SQL', shell: '$', advice: 'do' }

/** As a person reads it. */
export function lineOf({ check, state, what, mend }: Finding): string {
  const line = `${words[state]} ${check}: ${what}`
  return mend === null ? line : `${line}\n      ${prompts[mend.kind]}: ${mend.text.trim().replaceAll('\n', '\n      ')}`
}
