import { globSync } from 'node:fs'
import { expect, test } from 'vitest'
import { files, isGiven } from './projects.ts'
import { target } from './target.ts'

test('a file that asks for more than its project has is told what, and where to say so', () => {
  expect(() => target().dbUrl).toThrow(/asks for the dbUrl of its target, which .* does not have.*tests\/projects\.ts/)
})

test.skipIf(isGiven)('no file is of two projects', () => {
  const { long: _, pooler: __, poolerCluster: ___, unit: ____, ...listed } = files
  const named = Object.values(listed).flatMap(({ include }) => include.flatMap((pattern) => globSync(pattern)))

  expect(named.filter((file, at) => named.indexOf(file) !== at)).toEqual([])
})
