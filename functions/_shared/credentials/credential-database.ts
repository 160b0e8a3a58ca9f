/** The SQL functions behind credentials. Who may, what is sealed and what opens is theirs; this only carries it. */
import { z } from 'zod'
import type { Asker } from '../auth/identify-caller.ts'
import { answer, callSql, type Database, nothing } from '../db.ts'
import { openCredential, type Secrets } from '../open-credential.ts'

export type CredentialDatabase = ReturnType<typeof createCredentialDatabase>

const transfer = z.object({ transfer_id: z.guid(), key: z.string() })
type Transfer = z.infer<typeof transfer>

/** Whose key it is: an AI provider of ours, or an exchange, whose address is null when it is the exchange's own. */
const target = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('ai_provider'), provider: z.string(), baseUrl: z.string() }),
  z.object({ kind: z.literal('exchange'), provider: z.string(), baseUrl: z.string().nullable() }),
])
export type Target = z.infer<typeof target>

/** A new credential, or one that is there and gets another key. */
export type Place = { id: string } | { target: Target; name: string }

export function createCredentialDatabase(sql: Database) {
  return {
    /** A key under which secrets travel, once and within a minute. */
    startTransfer: ({ userId, sessionId, request }: Asker): Promise<Transfer> =>
      callSql(
        sql`select private.start_secret_transfer(${userId}, ${sessionId}, ${sql.json(request)}) as answer`,
        answer(transfer),
      ),
    startTest: async ({ userId, sessionId, request }: Asker, id: string): Promise<void> => {
      await callSql(
        sql`select private.start_credential_test(${userId}, ${sessionId}, ${id}, ${sql.json(request)})`,
        nothing,
      )
    },
    rename: async ({ userId, sessionId, request }: Asker, id: string, name: string): Promise<void> => {
      await callSql(
        sql`select private.rename_credential(${userId}, ${sessionId}, ${id}, ${name}, ${sql.json(request)})`,
        nothing,
      )
    },
    remove: async ({ userId, sessionId, request }: Asker, id: string): Promise<void> => {
      await callSql(
        sql`select private.delete_credential(${userId}, ${sessionId}, ${id}, ${sql.json(request)})`,
        nothing,
      )
    },

    /** The secrets are sealed there, as the key of whoever started the transfer. */
    save: async ({ transfer_id, key }: Transfer, secrets: Secrets, place: Place) => {
      const { nonce, ciphertext } = await encryptTransfer(key, transfer_id, JSON.stringify(secrets))
      const [id, kind, provider, name] =
        'id' in place ? [place.id, null, null, null] : [null, place.target.kind, place.target.provider, place.name]
      return callSql(
        sql`
          select private.save_credential(${transfer_id}, ${nonce}, ${ciphertext}, ${id}, ${kind}, ${provider}, ${name}) as answer`,
        answer(z.object({ id: z.guid(), version: z.int() })),
      )
    },
    open: (id: string, requestId: string) => openCredential(sql, id, 'test', requestId),
    /** `version` is that of the key that was tested; `reason` null: it works. */
    noteTest: async (
      id: string,
      version: number,
      { reason, permissions }: { reason: string | null; permissions: string[] },
    ): Promise<void> => {
      await callSql(sql`select private.note_credential_test(${id}, ${version}, ${reason}, ${permissions})`, nothing)
    },
    /** Undefined when there is no such AI provider or exchange here. */
    findTarget: async (kind: Target['kind'], provider: string): Promise<Target | undefined> => {
      const found =
        kind === 'exchange'
          ? sql`select 'exchange' as kind, id as provider, base_url as "baseUrl" from private.exchanges where id = ${provider} and enabled`
          : sql`select 'ai_provider' as kind, id as provider, base_url as "baseUrl" from private.providers where id = ${provider}`
      return (await callSql(found, z.array(target).max(1)))[0]
    },
    /** Whose key a credential of this user's is; of anybody else's, undefined. */
    placeOf: async (id: string, userId: string) => {
      const found = sql`select kind, provider from public.credentials where id = ${id} and user_id = ${userId}`
      const places = z.array(z.object({ kind: z.enum(['ai_provider', 'exchange']), provider: z.string() })).max(1)
      return (await callSql(found, places))[0]
    },
  }
}

type Bytes = Uint8Array<ArrayBuffer>

const tagBytes = 32

type Encrypted = { nonce: Bytes; ciphertext: Bytes }

/**
 * How secrets travel to the database: A256CBC-HS512 (RFC 7518, 5.2.5), so that a statement log with parameters holds none in clear.
 * `key` is 64 bytes as hex, half for the MAC and half for AES; `associatedData` is bound to the text and not
 * sent with it.
 */
async function encryptTransfer(key: string, associatedData: string, text: string): Promise<Encrypted> {
  const encoder = new TextEncoder()
  const bytes = fromHex(key)
  const nonce = crypto.getRandomValues(new Uint8Array(16))
  const aes = await crypto.subtle.importKey('raw', bytes.subarray(32), 'AES-CBC', false, ['encrypt'])
  const body = new Uint8Array(await crypto.subtle.encrypt({ name: 'AES-CBC', iv: nonce }, aes, encoder.encode(text)))
  const data = encoder.encode(associatedData)
  const hash = { name: 'HMAC', hash: 'SHA-512' }
  const hmac = await crypto.subtle.importKey('raw', bytes.subarray(0, 32), hash, false, ['sign'])
  const signed = await crypto.subtle.sign('HMAC', hmac, concat(data, nonce, body, bitLength(data)))
  return { nonce, ciphertext: concat(body, new Uint8Array(signed).subarray(0, tagBytes)) }
}

function fromHex(hex: string): Bytes {
  if (!/^[0-9a-f]{128}$/.test(hex)) throw new Error('a transfer key is 64 bytes as hex')
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16))
}

/** 64 bits, big end first. */
function bitLength({ byteLength }: Bytes): Bytes {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(8 * byteLength))
  return bytes
}

function concat(...parts: Bytes[]): Bytes {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.byteLength
  }
  return bytes
}
