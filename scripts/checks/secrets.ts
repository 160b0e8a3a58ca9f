/** Nothing secret is in the repository: patterns of keys that providers issue, in every tracked file. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { root } from '../../stack/config.ts'
import { trackedFiles } from './tracked-files.ts'

const patterns: Record<string, RegExp> = {
  'a Supabase key': /sb_(?:secret|publishable)_[A-Za-z0-9_-]{20,}/,
  'a Stripe key': /\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}/,
  'a Stripe webhook secret': /\bwhsec_[A-Za-z0-9+/=]{24,}/,
  'an OpenAI or OpenRouter key': /\bsk-(?:or-|proj-|ant-)?[A-Za-z0-9_-]{32,}/,
  'an AWS key': /\bAKIA[0-9A-Z]{16}\b/,
  'a private key': /-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----/,
  'a private JWK': /"d"\s*:\s*"[A-Za-z0-9_-]{40,}"/,
  'a signed token': /\beyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{20,}/,
  'a database URL with a password':
    /postgres(?:ql)?:\/\/[a-z_.]+:(?!\$|\*|<|PASSWORD|password|postgres@)[^@\s'"`{]{8,}@/,
}

export async function findSecrets(): Promise<string[]> {
  const files = (await trackedFiles()).filter((file) => file !== 'package-lock.json')
  const found = await Promise.all(
    files.map(async (file) => secretsIn(file, await readFile(join(root, file), 'utf8').catch(() => ''))),
  )
  return found.flat()
}

/**
 * What looks like a secret in one file; the finding names the line, never the secret.
 * @internal For tests: a file of theirs.
 */
export function secretsIn(file: string, text: string): string[] {
  return text
    .split('\n')
    .flatMap((line, i) =>
      Object.entries(patterns).flatMap(([name, pattern]) =>
        pattern.test(line) ? [`${file}:${i + 1} looks like ${name}`] : [],
      ),
    )
}
