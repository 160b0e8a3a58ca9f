/** The bucket of audit archives. Only a secret key reaches it: no policy lets anybody else in. */
import { createClient } from '@supabase/supabase-js'

const bucket = 'audit-archive'

export function createArchiveStore(url: string, secretKey: string) {
  const files = createClient(url, secretKey, {
    auth: { persistSession: false, autoRefreshToken: false },
  }).storage.from(bucket)
  return {
    upload: async (path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> => {
      const { error } = await files.upload(path, bytes, { contentType: 'application/gzip', upsert: false })
      // Its name has its hash in it: what is there already was written by an attempt that died, and is read back now.
      if (error && !/exists|duplicate/i.test(error.message)) {
        throw new Error(`upload of ${path}: ${error.message}`, { cause: error })
      }
    },
    download: async (path: string): Promise<Uint8Array<ArrayBuffer>> => {
      const { data, error } = await files.download(path)
      if (error) throw new Error(`download of ${path}: ${error.message}`, { cause: error })
      return new Uint8Array(await data.arrayBuffer())
    },
  }
}
