/** Functions that cannot be started now are started later. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { functionFiles } from '../../stack/config.ts'
import { startFunctions } from '../../stack/platform/functions.ts'
import { freePort } from '../../stack/platform/scratch.ts'

const home = mkdtempSync(join(tmpdir(), 'functions-'))
afterAll(() => rmSync(home, { recursive: true }))

test('a Deno that does not start is tried again, and its end is not waited for', { timeout: 60_000 }, async () => {
  const folder = join(home, 'not-yet', 'functions')
  const logs: string[] = []
  const log = (line: string) => logs.push(line)
  const port = await freePort()
  // Its working directory is not there.
  const functions = startFunctions({ files: { ...functionFiles, folder }, port, env: {}, watch: false, log })
  await expect.poll(() => logs.join()).toContain('functions: Deno cannot run: ')

  mkdirSync(join(folder, 'hello'), { recursive: true })
  writeFileSync(join(folder, 'deno.json'), '{}')
  writeFileSync(join(folder, 'hello', 'index.ts'), "export default { fetch: () => new Response('here') }")
  await functions.ready()

  expect(await (await fetch(`http://127.0.0.1:${port}/hello`)).text()).toBe('here')
  await functions.stop()

  const never = startFunctions({
    files: { ...functionFiles, folder: join(home, 'never', 'x') },
    port,
    env: {},
    watch: false,
    log,
  })
  await never.stop()
  expect(never.pid()).toBe(undefined)
})
