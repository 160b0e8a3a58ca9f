/** SHA-256 of bytes, or of a text as UTF-8. */
export async function sha256(data: string | Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
}

export const sha256Hex = async (data: string | Uint8Array<ArrayBuffer>): Promise<string> =>
  Array.from(await sha256(data), (byte) => byte.toString(16).padStart(2, '0')).join('')
