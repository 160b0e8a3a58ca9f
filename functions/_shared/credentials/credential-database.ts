/** What the credentials endpoint asks the database: in the caller's name through the Data API, as the service role directly. */
import { z } from 'zod'
import type { Database } from '../db.ts'
import { AppError, isErrorCode } from '../errors.ts'
import type { CredentialsWorld } from './world.ts'

type Parts = {
  sql: Database
  /** The project's URL, without /rest/v1. */
  apiUrl: string
  publishableKey: string
  fetch(url: string, init: RequestInit): Promise<Response>
}
type CredentialDatabase = Pick<
  CredentialsWorld,
  'startTransfer' | 'requireTest' | 'change' | 'save' | 'open' | 'noteTest' | 'baseUrlOf' | 'providerOf'
>

const transfers = z.array(z.object({ transfer_id: z.guid(), key: z.string() })).length(1)
const refusal = z.object({ code: z.string(), message: z.string() })
const fields = z.object({ api_key: z.string(), api_secret: z.string().optional(), passphrase: z.string().optional() })
const opened = z.discriminatedUnion('opened', [
  z.object({ opened: z.literal(true), provider: z.string(), fields }),
  z.object({ opened: z.literal(false), code: z.enum(['not_found', 'credential_unreadable']) }),
])

export function createCredentialDatabase({ sql, apiUrl, publishableKey, fetch }: Parts): CredentialDatabase {
  /** Calls a function of the API as the caller; its refusals are ours. */
  const rpc = async (token: string, name: string, args: Record<string, unknown>): Promise<unknown> => {
    const response = await fetch(`${apiUrl}/rest/v1/rpc/${name}`, {
      method: 'POST',
      headers: { apikey: publishableKey, authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(args),
    })
    const text = await response.text()
    if (response.ok) return text === '' ? null : JSON.parse(text)
    const { data } = refusal.safeParse(parsed(text))
    if (data && isErrorCode(data.code)) throw new AppError(data.code, { message: data.message })
    throw new AppError(response.status === 401 ? 'invalid_api_key' : 'internal')
  }
  return {
    startTransfer: async (token) => {
      const [transfer] = transfers.parse(await rpc(token, 'start_secret_transfer', {}))
      if (!transfer) throw new AppError('internal')
      return transfer
    },
    requireTest: async (token, id) => {
      await rpc(token, 'start_credential_test', { id })
    },
    change: async (token, id, name) => {
      await (name === null ? rpc(token, 'delete_credential', { id }) : rpc(token, 'rename_credential', { id, name }))
    },
    save: async (transferId, { nonce, ciphertext }, place) => {
      const [id, provider, name] = 'id' in place ? [place.id, null, null] : [null, place.provider, place.name]
      const [row] = await asked(sql`
        select private.save_credential(${transferId}, ${nonce}, ${ciphertext}, ${id}, 'ai_provider', ${provider}, ${name}) ->> 'id' as id`)
      return z.guid().parse(row?.id)
    },
    open: async (id, purpose, requestId) => {
      const [row] = await asked(sql`select private.open(${id}, ${purpose}, ${requestId}) as answer`)
      return opened.parse(row?.answer)
    },
    noteTest: async (id, reason) => {
      await asked(sql`select private.note_credential_test(${id}, ${reason})`)
    },
    baseUrlOf: async (provider) => {
      const [row] = await asked(sql`select base_url from private.providers where id = ${provider}`)
      return z.string().optional().parse(row?.base_url)
    },
    providerOf: async (id) => {
      const [row] = await asked(sql`select provider from public.credentials where id = ${id} and kind = 'ai_provider'`)
      return z.string().optional().parse(row?.provider)
    },
  }
}

/** Refusals of ours keep their words; what else goes wrong keeps none, because an error of Postgres may quote a parameter. */
async function asked<Row>(query: PromiseLike<Row>): Promise<Row> {
  try {
    return await query
  } catch (cause) {
    const { data } = refusal.safeParse(parsed(cause instanceof Error ? cause.message : ''))
    if (data && isErrorCode(data.code)) throw new AppError(data.code, { message: data.message })
    throw new AppError('internal')
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
