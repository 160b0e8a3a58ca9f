/** Supabase's Management API, of which the doctor only reads. */
import { z } from 'zod'
import { StackError } from '../../stack/config.ts'

export type Management = {
  ref: string
  /** The answer to GET /v1/projects/{ref}/PATH in the form that is asked for. */
  get<Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.output<Schema>>
}

const timeoutMs = 15_000

export function createManagement(ref: string, token: string, apiUrl = 'https://api.supabase.com'): Management {
  return {
    ref,
    async get(path, schema) {
      const response = await fetch(`${apiUrl}/v1/projects/${ref}/${path}`.replace(/\/$/, ''), {
        headers: { authorization: `Bearer ${token}` },
        redirect: 'manual',
        signal: AbortSignal.timeout(timeoutMs),
      }).catch(() => {
        throw new StackError(`Supabase's Management API does not answer (${path || 'the project'}).`)
      })
      if (response.status === 401) throw new StackError('Supabase does not take SUPABASE_ACCESS_TOKEN: make a new one.')
      if (!response.ok)
        throw new StackError(`Supabase's Management API answers ${response.status} to ${path || 'the project'}.`)
      const parsed = schema.safeParse(await response.json().catch(() => undefined))
      if (!parsed.success)
        throw new StackError(`Supabase's Management API answers ${path} in a form that is not known here.`)
      return parsed.data
    },
  }
}

export const apiKeys = z.array(
  z.object({ name: z.string(), type: z.string().nullish(), api_key: z.string().nullish() }),
)
export const poolers = z.array(
  z.object({ db_host: z.string(), db_user: z.string(), db_name: z.string(), database_type: z.string().optional() }),
)

/** The CLI counts this one among its experiments still. */
export const enforceSsl = (ref: string): string =>
  `npx supabase ssl-enforcement update --experimental --remote=${ref} --enable-db-ssl-enforcement`

/** The functions' secrets; their values cannot be read back. */
export const secrets = z.array(z.object({ name: z.string() }))
