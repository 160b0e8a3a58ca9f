/** What the log says when the provider cannot be reached: what happened on the wire, and nothing of the address but its host. */
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createTlsServer } from 'node:https'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
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
/** Ports of hosts with a certificate for localhost, of an authority that is trusted and of one that is not. */
let trusted: number
let untrusted: number
const folder = mkdtempSync(join(tmpdir(), 'palisade-transport-'))
const servers: { close(): void }[] = []

async function listen(onData: (socket: Socket) => void): Promise<string> {
  const server = createServer((socket) => socket.on('error', () => {}).once('data', () => onData(socket)))
  return `127.0.0.1:${await portOf(server)}`
}

async function portOf(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  servers.push(server)
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}

const authorityOf = (name: string) => join(folder, `${name}-authority.pem`)

async function listenWithTls(name: string): Promise<number> {
  const [key, cert] = [join(folder, `${name}-key.pem`), join(folder, `${name}.pem`)]
  const [authorityKey, authority] = [join(folder, `${name}-authority-key.pem`), authorityOf(name)]
  const kind = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  const make = (args: string[]) => execFileSync('openssl', [...kind, ...args], { stdio: 'ignore' })
  make(['-subj', `/CN=${name}`, '-keyout', authorityKey, '-out', authority])
  const names = ['-addext', 'subjectAltName=DNS:localhost', '-addext', 'basicConstraints=critical,CA:FALSE']
  make(['-subj', '/CN=host', ...names, '-CA', authority, '-CAkey', authorityKey, '-keyout', key, '-out', cert])
  const files = { key: readFileSync(key), cert: readFileSync(cert) }
  return portOf(createTlsServer(files, (_request, response) => response.end('{}')))
}

beforeAll(async () => {
  nobody = await listen(() => {})
  servers.pop()?.close()
  hangsUp = await listen((socket) => socket.destroy())
  breaksOff = await listen((socket) =>
    socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{', () => socket.destroy()),
  )
  trusted = await listenWithTls('trusted')
  untrusted = await listenWithTls('untrusted')
  noHttp = await listen((socket) => socket.end('220 mail.example.com\r\n\r\n'))
})
afterAll(() => {
  for (const server of servers) server.close()
  rmSync(folder, { recursive: true })
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

async function inDeno(program: string, args: string[], more: string[] = []): Promise<unknown> {
  const readable = ['functions', 'node_modules', 'tests/support'].map((folder) => join(root, folder)).join(',')
  const flags = [...denoOffline, '--allow-env', '--allow-net', `--allow-read=${readable}`, ...more]
  const file = fileURLToPath(new URL(`../support/${program}`, import.meta.url))
  const env = { DENO_DIR: join(root, 'node_modules/.cache/palisade-deno'), NO_COLOR: '1' }
  const run = ['run', ...flags, '--config', join(root, 'functions/deno.json'), file, ...args]
  const { stdout } = await promisify(execFile)(denoBinary(), run, { env })
  return JSON.parse(stdout)
}

test('the same in Deno, which has words of its own, by fetch and by node:http', async () => {
  const urls = [
    ...[`http://user:sk-secret@${nobody}/?key=sk-secret`, `https://${hangsUp}/`, `http://${hangsUp}/`],
    ...[`http://${breaksOff}/`, `http://${noHttp}/`],
    ...[`https://localhost:${trusted}/`, `https://127.0.0.1:${trusted}/`, `https://localhost:${untrusted}/`],
  ]

  const said = [
    `${nobody}: the connection was refused`,
    `${hangsUp}: no TLS connection came about`,
    `${hangsUp}: the connection was closed`,
    'the connection was closed',
    `${noHttp}: what answers does not speak HTTP`,
    'status 200',
    `127.0.0.1:${trusted}: its certificate is for another name`,
    `localhost:${untrusted}: its certificate is not trusted`,
  ]
  const trusting = ['--cert', authorityOf('trusted')]
  expect(await inDeno('ask-nobody.ts', urls, trusting)).toEqual({ fetch: said, node: said })
})

test('Deno does not ask again by itself when a kept connection breaks, nor when we end it', async () => {
  expect(await inDeno('ask-again.ts', [])).toEqual([2, 2])
})

test('Deno gives in clear what is compressed although nobody asked for it, both ways', async () => {
  const all = [true, true, true]

  expect(await inDeno('ask-compressed.ts', [])).toEqual({ fetch: all, node: all })
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
