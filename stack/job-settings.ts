/** What lets jobs call the functions: their address in a setting, the secret key in Vault. On hosted an operator sets both. */
import postgres from 'postgres'

export async function writeJobSettings(url: string, functionsUrl: string, secretKey: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    await sql`update private.settings set value = ${sql.json(functionsUrl)} where key = 'jobs.functions_url'`
    const [secret] =
      await sql`select id, decrypted_secret as value from vault.decrypted_secrets where name = 'palisade_secret_key'`
    if (!secret) {
      await sql`select vault.create_secret(${secretKey}, 'palisade_secret_key', 'Secret API key with which jobs call the functions.')`
    } else if (secret.value !== secretKey) {
      await sql`select vault.update_secret(${secret.id}::uuid, ${secretKey})`
    }
  } finally {
    await sql.end()
  }
}
