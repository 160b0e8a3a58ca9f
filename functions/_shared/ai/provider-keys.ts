/** The keys with which we call providers: from this deployment's environment, or from its Vault. */
import type { Ledger } from './ledger.ts'

export type ProviderKeys = ReturnType<typeof createProviderKeys>

type KeySources = Pick<Ledger, 'providerSecret'> & { environment(name: string): string | undefined; now(): number }

const keptMs = 5 * 60_000

/**
 * Providers' keys: the environment's first, then the Vault's. A secret that was not found is asked for again, so that one that is
 * put there works at once.
 */
export function createProviderKeys({ environment, providerSecret, now }: KeySources) {
  const kept = new Map<string, { secret: string; until: number }>()

  return async (name: string): Promise<string | undefined> => {
    // A row in the table of providers must not be able to send the project's own secrets to its address.
    if (name.startsWith('SUPABASE_')) return undefined
    const given = environment(name)
    if (given) return given
    const known = kept.get(name)
    if (known && known.until > now()) return known.secret
    kept.delete(name)
    const secret = await providerSecret(name)
    if (secret) kept.set(name, { secret, until: now() + keptMs })
    return secret ?? undefined
  }
}
