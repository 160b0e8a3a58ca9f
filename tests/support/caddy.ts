/** Debian's Caddy with deploy/self-hosted/Caddyfile, as it is; what differs between machines comes from the environment. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { root } from '../../stack/config.ts'
import { programOf } from './debian.ts'
import { freeRange } from './ports.ts'

export type RunningProxy = {
  httpPort: number
  httpsPort: number
  /** The certificate that signed those of its names. */
  ca: string
  /** Everything that it has written so far. */
  log(): string
  stop(): Promise<void>
}

/** The API is `localhost` and the app's pages are `127.0.0.1`, because both are found without DNS. */
export async function startProxy(env: Record<string, string>): Promise<RunningProxy> {
  const httpPort = await freeRange()
  const httpsPort = httpPort + 1
  const home = await mkdtemp(join(tmpdir(), 'palisade-proxy-'))
  const child = spawn(programOf('caddy'), ['run', '--config', join(root, 'deploy/self-hosted/Caddyfile')], {
    env: {
      PATH: process.env.PATH,
      ...{ HOME: home, XDG_DATA_HOME: join(home, 'data'), XDG_CONFIG_HOME: join(home, 'config') },
      ...{ HTTP_PORT: String(httpPort), HTTPS_PORT: String(httpsPort) },
      ...{ API_DOMAIN: 'localhost', SITE_DOMAIN: '127.0.0.1', TLS: 'internal', HEALTH_INTERVAL: '100ms' },
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const written: string[] = []
  child.stdout.on('data', (text) => written.push(String(text)))
  child.stderr.on('data', (text) => written.push(String(text)))
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const log = () => written.join('')
  const stop = async () => {
    child.kill('SIGKILL')
    await exited
    await rm(home, { recursive: true, force: true })
  }
  try {
    await untilItAnswers(httpsPort, () => child.exitCode !== null)
    const ca = readFileSync(join(home, 'data/caddy/pki/authorities/local/root.crt'), 'utf8')
    return { httpPort, httpsPort, ca, log, stop }
  } catch (error) {
    await stop()
    throw new Error(`Caddy did not start:\n${log()}`, { cause: error })
  }
}

/** Certificates are made after the port is open. */
async function untilItAnswers(port: number, isOver: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000
  while (!(await answers(port))) {
    if (isOver() || Date.now() > deadline) throw new Error('no answer')
    await pause(50)
  }
}

const answers = (port: number) =>
  new Promise<boolean>((resolve) => {
    // Whom it trusts is not the question yet: the certificate of its authority does not exist before.
    const asked = request({ host: '127.0.0.1', port, servername: 'localhost', rejectUnauthorized: false })
    asked.once('response', (response) => resolve(response.resume().statusCode !== undefined))
    asked.once('error', () => resolve(false))
    asked.setHeader('host', 'localhost').end()
  })
