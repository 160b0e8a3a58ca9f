/** What the credentials endpoint asks the database: in the caller's name through the Data API, as the service role directly. */
import { z } from 'zod'
import { type ApiAccess, createUserRpc } from '../auth/user-rpc.ts'
import { answer, callSql, type Database, nothing } from '../db.ts'
import { AppError } from '../errors.ts'
import type { CredentialsWorld } from './world.ts'

type Parts = ApiAccess & { sql: Database }
type CredentialDatabase = Pick<
  CredentialsWorld,
  'startTransfer' | 'requireTest' | 'change' | 'save' | 'open' | 'noteTest' | 'findTarget' | 'placeOf'
>

const transfers = z.array(z.object({ transfer_id: z.guid(), key: z.string() })).length(1)
const saved = z.object({ id: z.guid(), version: z.int() })
const places = z.array(z.object({ kind: z.enum(['ai_provider', 'exchange']), provider: z.string() })).max(1)
const targets = z
  .array(
    z.discriminatedUnion('kind', [
      z.object({ kind: z.literal('ai_provider'), provider: z.string(), baseUrl: z.string() }),
      z.object({ kind: z.literal('exchange'), provider: z.string(), baseUrl: z.string().nullable() }),
    ]),
  )
  .max(1)
const fields = z.object({ api_key: z.string(), api_secret: z.string().optional(), passphrase: z.string().optional() })
const opened = z.discriminatedUnion('opened', [
  z.object({ opened: z.literal(true), version: z.int(), fields }),
  z.object({ opened: z.literal(false), code: z.enum(['not_found', 'credential_unreadable']) }),
])

export function createCredentialDatabase({ sql, apiUrl, publishableKey, fetch }: Parts): CredentialDatabase {
  const rpc = createUserRpc({ apiUrl, publishableKey, fetch })
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
      const [id, kind, provider, name] =
        'id' in place ? [place.id, null, null, null] : [null, place.target.kind, place.target.provider, place.name]
      return callSql(
        sql`
          select private.save_credential(${transferId}, ${nonce}, ${ciphertext}, ${id}, ${kind}, ${provider}, ${name}) as answer`,
        answer(saved),
      )
    },
    open: (id, purpose, requestId) =>
      callSql(sql`select private.open(${id}, ${purpose}, ${requestId}) as answer`, answer(opened)),
    noteTest: async (id, version, { reason, permissions }) => {
      await callSql(sql`select private.note_credential_test(${id}, ${version}, ${reason}, ${permissions})`, nothing)
    },
    findTarget: async (kind, provider) => {
      const found =
        kind === 'exchange'
          ? sql`select 'exchange' as kind, id as provider, base_url as "baseUrl" from private.exchanges where id = ${provider} and enabled`
          : sql`select 'ai_provider' as kind, id as provider, base_url as "baseUrl" from private.providers where id = ${provider}`
      return (await callSql(found, targets))[0]
    },
    placeOf: async (id, userId) => {
      const found = sql`select kind, provider from public.credentials where id = ${id} and user_id = ${userId}`
      return (await callSql(found, places))[0]
    },
  }
}
