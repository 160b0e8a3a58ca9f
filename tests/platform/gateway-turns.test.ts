/** Several processes of the functions behind one gateway. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { expect, onTestFinished, test } from 'vitest'
import { projectFile, readConfig } from '../../stack/config.ts'
import { readProjectSettings } from '../../stack/platform/auth/settings.ts'
import { createGateway } from '../../stack/platform/gateway.ts'
import { makePlatformKeys } from '../../stack/platform/keys.ts'

const real = 'http://127.0.0.1:9'

/** A process that answers with its name. */
async function startProcess(name: string): Promise<string> {
  const server = createServer((_, response) => response.end(name)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const address = server.address()
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
}

test('they take turns, call by call', async () => {
  const functions = await Promise.all(['one', 'two', 'three'].map(startProcess))
  const config = readConfig({ PALISADE_AUTH_URL: real, PALISADE_REST_URL: real, PALISADE_STORAGE_URL: real })
  const gateway = await createGateway({
    config: { ...config.platform, urls: { ...config.urls, functions } },
    keys: await makePlatformKeys(),
    settings: readProjectSettings(projectFile, config.ports.console),
    dbUrl: () => 'postgresql://127.0.0.1:9/none',
    deliverMail: async () => {},
    log: () => {},
  })
  const ask = async () => {
    const answer = await gateway.fetch(new Request(`${config.urls.api}/functions/v1/ai`), { address: '127.0.0.1' })
    return answer.text()
  }

  const answers = []
  for (let n = 0; n < 6; n += 1) answers.push(await ask())

  expect(answers.slice(0, 3).sort()).toEqual(['one', 'three', 'two'])
  expect(answers.slice(3)).toEqual(answers.slice(0, 3))
})

test('each has a port of its own', () => {
  const { urls, ports } = readConfig({ PALISADE_PORT: '20000', PALISADE_FUNCTIONS_PROCESSES: '8' })
  const taken = [...urls.functions.map((url) => Number(new URL(url).port)), ...Object.values(ports)]

  expect(urls.functions).toHaveLength(8)
  expect(new Set(taken).size).toBe(taken.length)
  expect(readConfig({ PALISADE_PORT: '20000' }).urls.functions).toEqual(['http://127.0.0.1:20005'])
})
