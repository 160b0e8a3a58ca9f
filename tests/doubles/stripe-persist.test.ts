import { existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { persist } from '../../stack/doubles/stripe/persist.ts'
import { createState } from '../../stack/doubles/stripe/state.ts'

const folder = mkdtempSync(join(tmpdir(), 'palisade-stripe-'))
afterAll(() => rmSync(folder, { recursive: true }))

test('an account that cannot be written ends nothing, is said once, and is written when it is possible again', () => {
  const file = join(folder, 'stripe.json')
  const logs: string[] = []
  const state = createState({ url: 'http://127.0.0.1:9', secretKey: 'none', now: () => 0 })
  const save = persist(state, file, (line) => logs.push(line))
  state.isDirty = true
  // What a full disk does to a write, a folder in its place does, too.
  mkdirSync(`${file}.new`)

  save()
  save()

  expect(logs).toEqual([expect.stringMatching(/^stripe: EISDIR.*it is tried again$/)])
  rmdirSync(`${file}.new`)
  save()
  expect(existsSync(file)).toBe(true)
})
