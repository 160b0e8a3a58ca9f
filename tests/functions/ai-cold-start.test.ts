/** A worker that starts for one call pays for everything that is imported. */
import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { root } from '../../stack/config.ts'

/** The packages that a file imports when it is loaded, with what it imports itself. `import type` and `import()` cost nothing. */
function packagesOf(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return new Set()
  seen.add(file)
  const text = readFileSync(file, 'utf8')
  const names = [...text.matchAll(/^(?:import|export)\s(?!type\s)(?:[^'"]*?\sfrom\s)?'([^']+)'/gm)].map(
    ([, name]) => name ?? '',
  )
  const inside = names.filter((name) => name.startsWith('.')).map((name) => resolve(dirname(file), name))
  const outside = names.filter((name) => !name.startsWith('.'))
  return new Set([...outside, ...inside.flatMap((name) => [...packagesOf(name, seen)])])
}

test('the AI function starts with the database driver and the validator, and nothing else', () => {
  expect([...packagesOf(join(root, 'functions/ai/index.ts'))].sort()).toEqual(['postgres', 'zod'])
})

test('the reader of imports finds what another function needs', () => {
  expect([...packagesOf(join(root, 'functions/jobs/index.ts'))]).toContain('@supabase/supabase-js')
})
