/** The project that accounts are brought into, through its public API with a secret key. */
import { createClient } from '@supabase/supabase-js'
import { z } from 'zod'
import { StackError } from '../../stack/config.ts'
import type { NewAccount } from './check-row.ts'

export type Policy = { phase: string; minimumAge: number; refusesUnderAge: boolean; plans: Set<string> }
/** taken: an account has this address. known: an earlier try or run of an import made this very account. */
export type Created = 'created' | 'known' | 'taken' | { failed: string }

export type Directory = {
  policy(): Promise<Policy>
  create(account: NewAccount): Promise<Created>
  /** What create would answer, without creating. */
  look(account: NewAccount): Promise<Created>
}

const policySchema = z.object({
  'launch.phase': z.string(),
  'registration.minimum_age': z.number(),
  'registration.under_age': z.string(),
})
const foundSchema = z.array(z.object({ id: z.string() }))

export function connect(url: string, secretKey: string, fetchOnce: typeof fetch): Directory {
  const client = createClient(url, secretKey, {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { fetch: fetchOnce },
  })
  const stateOf = async (account: NewAccount): Promise<'known' | 'absent' | 'other'> => {
    const { data, error } = await client.auth.admin.getUserById(account.id)
    if (error && error.status !== 404) throw new StackError(`Accounts cannot be looked up: ${error.message}`)
    if (!data.user) return 'absent'
    const isOurs = data.user.app_metadata.registered_by === 'import' && data.user.email === account.email
    return isOurs ? 'known' : 'other'
  }
  const isTaken = async (email: string) => {
    const { data, error } = await client.rpc('find_account', { email })
    if (error) throw new StackError(`Accounts cannot be looked up: ${error.message}`)
    return foundSchema.parse(data).length > 0
  }
  const setPlan = async (account: NewAccount): Promise<string | undefined> => {
    if (account.plan === undefined) return undefined
    const { error } = await client.from('profiles').update({ plan_id: account.plan }).eq('id', account.id)
    return error?.message
  }
  const withPlan = async (account: NewAccount, done: 'created' | 'known'): Promise<Created> => {
    const problem = await setPlan(account)
    return problem === undefined ? done : { failed: `the plan could not be set: ${problem}` }
  }
  return {
    async policy() {
      const [settings, plans] = await Promise.all([
        client.rpc('get_registration_policy'),
        client.from('plans').select('id'),
      ])
      const error = settings.error ?? plans.error
      if (error) throw new StackError(`${url} does not answer as a Palisade project does: ${error.message}`)
      const policy = policySchema.parse(settings.data)
      return {
        phase: policy['launch.phase'],
        minimumAge: policy['registration.minimum_age'],
        refusesUnderAge: policy['registration.under_age'] !== 'park',
        plans: new Set(foundSchema.parse(plans.data).map((plan) => plan.id)),
      }
    },

    async create(account) {
      const { error } = await client.auth.admin.createUser({
        id: account.id,
        email: account.email,
        email_confirm: account.emailConfirmed,
        user_metadata: account.userMetadata,
        app_metadata: account.appMetadata,
        ...(account.passwordHash === undefined ? {} : { password_hash: account.passwordHash }),
      })
      if (!error) return withPlan(account, 'created')
      // Whatever went wrong: the account may be there, because an answer was lost or an earlier run made it.
      const state = await stateOf(account)
      if (state === 'known') return withPlan(account, 'known')
      if (state === 'other') return { failed: 'another account has this id' }
      if (error.status === 422 && (await isTaken(account.email))) return 'taken'
      return { failed: `the service answered ${error.status ?? 'nothing'}: ${error.message}` }
    },

    async look(account) {
      const state = await stateOf(account)
      if (state === 'known') return 'known'
      if (state === 'other') return { failed: 'another account has this id' }
      return (await isTaken(account.email)) ? 'taken' : 'created'
    },
  }
}
