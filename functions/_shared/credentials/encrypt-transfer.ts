/** How secrets travel to the database: A256CBC-HS512 (RFC 7518, 5.2.5), so that a statement log with parameters holds none in clear. */

type Bytes = Uint8Array<ArrayBuffer>

const tagBytes = 32

export type Encrypted = { nonce: Bytes; ciphertext: Bytes }

/** `key` is 64 bytes as hex, half for the MAC and half for AES; `associatedData` is bound to the text and not sent with it. */
export async function encryptTransfer(key: string, associatedData: string, text: string): Promise<Encrypted> {
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
