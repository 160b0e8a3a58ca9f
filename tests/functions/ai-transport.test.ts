/** What the log says when the provider cannot be reached: what happened on the wire, and nothing of the address but its host. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { describeTransport } from '../../functions/_shared/failure.ts'
import { root } from '../../stack/config.ts'
import { denoBinary, denoOffline } from '../../stack/platform/functions.ts'
import { admittedTo, createWorld, messages } from './ai-world.ts'

/** Hosts that each fail in one way. */
let nobody: string
let hangsUp: string
let breaksOff: string
let noHttp: string
const servers: { close(): void }[] = []

async function listen(onData: (socket: Socket) => void): Promise<string> {
  const server = createServer((socket) => socket.on('error', () => {}).once('data', () => onData(socket)))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  servers.push(server)
  const address = server.address()
  return typeof address === 'object' && address ? `127.0.0.1:${address.port}` : ''
}

beforeAll(async () => {
  nobody = await listen(() => {})
  servers.pop()?.close()
  hangsUp = await listen((socket) => socket.destroy())
  breaksOff = await listen((socket) =>
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{', () => socket.destroy()),
  )
  noHttp = await listen((socket) => socket.end('220 mail.example.com\r\n\r\n'))
})
afterAll(() => {
  for (const server of servers) server.close()
})

/** The causes in the log of one call to a provider at this base URL. */
async function causesOf(baseUrl: string) {
  const admit = async () => admittedTo(baseUrl, 'echo')
  const { seen, chat } = createWorld(baseUrl, { ledger: { admit } })
  expect((await chat({ model: 'echo', messages })).status).toBe(502)
  return { causes: seen.log.flatMap(({ cause }) => cause ?? []), text: JSON.stringify(seen.log) }
}

test('the log says what happened on the wire', async () => {
  expect((await causesOf(`http://${nobody}/v1`)).causes).toContain(`${nobody}: the connection was refused`)
  expect((await causesOf(`https://${hangsUp}/v1`)).causes).toContain(`${hangsUp}: no TLS connection came about`)
  expect((await causesOf(`http://${hangsUp}/v1`)).causes).toContain(`${hangsUp}: the connection was closed`)
  expect((await causesOf(`http://${breaksOff}/v1`)).causes).toContain('the connection was closed')
})

test('neither a key in the address nor its path gets into the log', async () => {
  const { text } = await causesOf(`http://${nobody}/very-secret?key=sk-secret`)

  expect(text).toContain(nobody)
  expect(text).not.toContain('secret')
})

test('the same in Deno, which has words of its own', async () => {
  const readable = ['functions', 'node_modules', 'tests/support'].map((folder) => join(root, folder)).join(',')
  const flags = [...denoOffline, '--allow-env', '--allow-net']
  const program = fileURLToPath(new URL('../support/ask-nobody.ts', import.meta.url))
  const files = ['--config', join(root, 'functions/deno.json'), program]
  const env = { DENO_DIR: join(root, 'node_modules/.cache/palisade-deno'), NO_COLOR: '1' }
  const urls = [
    ...[`http://user:sk-secret@${nobody}/?key=sk-secret`, `https://${hangsUp}/`, `http://${hangsUp}/`],
    ...[`http://${breaksOff}/`, `http://${noHttp}/`],
  ]

  const run = ['run', ...flags, `--allow-read=${readable}`, ...files, ...urls]
  const { stdout } = await promisify(execFile)(denoBinary(), run, { env })

  expect(JSON.parse(stdout)).toEqual([
    `${nobody}: the connection was refused`,
    `${hangsUp}: no TLS connection came about`,
    `${hangsUp}: the connection was closed`,
    'the connection was closed',
    `${noHttp}: what answers does not speak HTTP`,
  ])
})

const denoSays = (what: string) =>
  new TypeError('fetch failed', {
    cause: new Error(`error sending request for url (https://tls.example.com/v1?key=sk-secret): client error ${what}`),
  })
const nodeSays = (code: string) =>
  new TypeError('fetch failed', { cause: Object.assign(new Error(`connect ${code}`), { code }) })

test.each([
  ['the name was not found', denoSays('(Connect): dns error: failed to lookup address information')],
  ['its certificate has expired', denoSays('(Connect): invalid peer certificate: Expired')],
  ['its certificate is for another name', denoSays('(Connect): invalid peer certificate: NotValidForName')],
  ['its certificate is not trusted', denoSays('(Connect): invalid peer certificate: UnknownIssuer')],
  ['no way leads there', denoSays('(Connect): tcp connect error: No route to host (os error 113)')],
  ['the connection timed out', denoSays('(Connect): tcp connect error: Connection timed out (os error 110)')],
  ['the name was not found', nodeSays('ENOTFOUND')],
  ['its certificate has expired', nodeSays('CERT_HAS_EXPIRED')],
  ['its certificate is for another name', nodeSays('ERR_TLS_CERT_ALTNAME_INVALID')],
  ['its certificate is not trusted', nodeSays('DEPTH_ZERO_SELF_SIGNED_CERT')],
  ['no way leads there', nodeSays('EHOSTUNREACH')],
  ['the connection timed out', nodeSays('UND_ERR_CONNECT_TIMEOUT')],
  ['TypeError (Error)', denoSays('something new')],
  ['TypeError (Error ENEW)', nodeSays('ENEW')],
])('%s: in words of ours', (what, error) => {
  expect(describeTransport(error, 'https://user:sk-secret@api.example.com/v1?key=sk-secret')).toBe(
    `api.example.com: ${what}`,
  )
})
