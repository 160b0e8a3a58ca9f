import { expect, test } from 'vitest'
import { createProviderKeys } from '../../functions/_shared/ai/provider-keys.ts'

function keysFrom(environment: Record<string, string>, vault: Record<string, string>) {
  let now = 0
  const asked: string[] = []
  const providerSecret = async (name: string) => {
    asked.push(name)
    return vault[name] ?? null
  }
  const keyOf = createProviderKeys({ environment: (name) => environment[name], providerSecret, now: () => now })
  return { keyOf, asked, pass: (ms: number) => (now += ms) }
}

test("the project's own secrets are no provider's keys, wherever they are", async () => {
  const own = { SUPABASE_SECRET_KEYS: 'secret' }
  const { keyOf, asked } = keysFrom(own, own)

  expect(await keyOf('SUPABASE_SECRET_KEYS')).toBeUndefined()
  expect(asked).toEqual([])
})

test('the environment comes first, and the Vault is not asked', async () => {
  const { keyOf, asked } = keysFrom({ KEY: 'from the environment' }, { KEY: 'from the Vault' })

  expect(await keyOf('KEY')).toBe('from the environment')
  expect(asked).toEqual([])
})

test('the Vault is asked once in five minutes', async () => {
  const vault = { KEY: 'old' }
  const { keyOf, asked, pass } = keysFrom({ KEY: '' }, vault)

  expect(await keyOf('KEY')).toBe('old')
  vault.KEY = 'new'
  pass(299_999)
  expect(await keyOf('KEY')).toBe('old')
  pass(1)
  expect(await keyOf('KEY')).toBe('new')
  expect(asked).toHaveLength(2)
})

test('a key that was not there works as soon as it is', async () => {
  const vault: Record<string, string> = {}
  const { keyOf } = keysFrom({}, vault)

  expect(await keyOf('KEY')).toBeUndefined()
  vault.KEY = 'here'
  expect(await keyOf('KEY')).toBe('here')
})
