/** A worker that starts for one call pays for everything that is imported. */
import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import { AppError } from '../../functions/_shared/errors.ts'
import { root } from '../../stack/config.ts'
import { createWorld } from './ai-world.ts'

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

test('the AI function starts with the database driver and nothing else', () => {
  expect([...packagesOf(join(root, 'functions/ai/index.ts'))].sort()).toEqual(['postgres'])
})

test('the reader of imports finds what another function needs', () => {
  expect([...packagesOf(join(root, 'functions/jobs/index.ts'))]).toContain('@supabase/supabase-js')
})

test('a call begins to fetch what it needs while its token is checked, and a list of models needs none of it', async () => {
  const order: string[] = []
  const { send, chat } = createWorld('http://127.0.0.1:9', {
    verifyUserToken: async () => {
      order.push('token')
      throw new AppError('invalid_api_key')
    },
    ledger: { prepare: () => void order.push('prepare') },
  })

  await send('/models')
  expect(order).toEqual(['token'])
  await chat({})
  expect(order).toEqual(['token', 'prepare', 'token'])
})
