/** What .env.production is refused for, and what a real project is told of it. */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { scramVerifier } from '../../scripts/deploy/gateway-login.ts'
import { productionConfig } from '../../scripts/deploy/production-config.ts'
import { concealer, readProduction } from '../../scripts/deploy/production-env.ts'
import { root } from '../../stack/config.ts'
import { reachOf } from '../../stack/host-reach.ts'

let folder: string
let file: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'production-env-'))
  file = join(folder, '.env.production')
})
afterEach(() => rmSync(folder, { recursive: true }))

const write = (text: string, mode = 0o600) => {
  writeFileSync(file, text)
  chmodSync(file, mode)
}
const git = (...args: string[]) => execFileSync('git', args, { cwd: folder, stdio: 'pipe' })
const good = 'SITE_URL=https://app.example.com\n'

describe('a file that others could get at is refused, with what mends it', () => {
  test('when there is none', async () => {
    await expect(readProduction(file)).rejects.toThrow(`cp .env.production.example ${file} && chmod 600`)
  })

  test.each([0o644, 0o640, 0o604, 0o660])('with mode %o', async (mode) => {
    write(good, mode)

    await expect(readProduction(file)).rejects.toThrow(`chmod 600 ${file}`)
  })

  test('when Git has it', async () => {
    write(good)
    git('init', '-q')
    git('add', '-f', '.env.production')

    await expect(readProduction(file)).rejects.toThrow(`git rm --cached ${file}`)
  })

  test('when it is a link to one that Git has', async () => {
    git('init', '-q')
    writeFileSync(join(folder, '.gitignore'), '.env.production\n')
    writeFileSync(join(folder, 'secrets'), good, { mode: 0o600 })
    git('add', 'secrets')
    symlinkSync('secrets', file)

    await expect(readProduction(file)).rejects.toThrow(`git rm --cached ${join(folder, 'secrets')}`)
  })

  test('when Git would take it', async () => {
    write(good)
    git('init', '-q')

    await expect(readProduction(file)).rejects.toThrow(`echo ${file} >> .gitignore`)

    writeFileSync(join(folder, '.gitignore'), '.env.production\n')
    expect((await readProduction(file)).SITE_URL).toBe('https://app.example.com')
  })

  test('when it is a link to a file that Git has, or that others may read', async () => {
    const kept = join(folder, 'kept')
    mkdirSync(kept)
    const other = join(kept, 'secrets')
    writeFileSync(other, good, { mode: 0o644 })
    symlinkSync(other, file)
    await expect(readProduction(file)).rejects.toThrow(`chmod 600 ${other}`)

    chmodSync(other, 0o600)
    expect((await readProduction(file)).SITE_URL).toBe('https://app.example.com')

    execFileSync('git', ['init', '-q'], { cwd: kept })
    execFileSync('git', ['add', 'secrets'], { cwd: kept })
    await expect(readProduction(file)).rejects.toThrow(`git rm --cached ${other}`)
  })

  test('when it is itself a link that Git would take', async () => {
    const elsewhere = mkdtempSync(join(tmpdir(), 'production-env-'))
    writeFileSync(join(elsewhere, 'secrets'), good, { mode: 0o600 })
    symlinkSync(join(elsewhere, 'secrets'), file)
    git('init', '-q')

    await expect(readProduction(file)).rejects.toThrow(`echo ${file} >> .gitignore`)
    rmSync(elsewhere, { recursive: true })
  })
})

describe('a value is refused without being shown', () => {
  test.each([
    ['SITE_URL=http://app.example.com', 'SITE_URL must be https, and no address of this machine'],
    ['SITE_URL=https://localhost', 'SITE_URL must be https'],
    ['SITE_URL=https://127.0.0.1:3000', 'SITE_URL must be https'],
    ['SITE_URL=https://[::1]', 'SITE_URL must be https'],
    ['SITE_URL=https://localhost.', 'SITE_URL must be https'],
    ['SITE_URL=https://0x7f.1', 'SITE_URL must be https'],
    ['SITE_URL=https://[::ffff:127.0.0.1]', 'SITE_URL must be https'],
    ['SITE_URL=https://[fe80::1]', 'SITE_URL must be https'],
    ['SITE_URL=https://169.254.0.1', 'SITE_URL must be https'],
    ['SITE_URL=https://192.168.1.7', 'SITE_URL must be https'],
    ['SITE_URL=https://mac.local', 'SITE_URL must be https'],
    ['SITE_URL=https://host.docker.internal', 'SITE_URL must be https'],
    ['SITE_URL=app.example.com', 'SITE_URL must be https'],
    ['SITE_URL=https://me:secret@app.example.com', 'SITE_URL must hold no login'],
    ['REDIRECT_URLS=exp://192.168.1.7:8081', 'REDIRECT_URLS must be https'],
    ['SMTP_URL=smtps://a:b@2130706433:465\nMAIL_FROM=a@example.com', 'SMTP_URL must not be on this machine'],
    ['REDIRECT_URLS=https://a.example.com,http://b.example.com', 'REDIRECT_URLS must be https'],
    ['REDIRECT_URLS=https://localhost:3000/**', 'REDIRECT_URLS must be https'],
    ['REDIRECT_URLS=https://**', 'REDIRECT_URLS must name scheme and host'],
    ['REDIRECT_URLS=*://app.example.com/**', 'REDIRECT_URLS must name scheme and host'],
    ['BILLING_RETURN_URLS=http://localhost:3000', 'BILLING_RETURN_URLS must be https'],
    ['SMTP_URL=smtps://a:b@localhost:465\nMAIL_FROM=a@example.com', 'SMTP_URL must not be on this machine'],
    ['SMTP_URL=smtps://a:b@smtp.example.com', 'SMTP_URL needs MAIL_FROM, too'],
    ['MAIL_FROM=a@example.com', 'MAIL_FROM needs SMTP_URL, too'],
    ['CAPTCHA_PROVIDER=turnstile', 'CAPTCHA_PROVIDER needs CAPTCHA_SECRET, too'],
    ['CAPTCHA_PROVIDER=other\nCAPTCHA_SECRET=x', 'CAPTCHA_PROVIDER must be turnstile or hcaptcha'],
    ['AUTH_TEAM_HOOKS=yes', 'AUTH_TEAM_HOOKS must be on or off'],
    ['DOCTOR_ACCEPTED=auth_leaked_password_protection,rls_disabled_in_public', 'DOCTOR_ACCEPTED may name auth_leaked'],
    ['AUTH_SESSION_LIMITS=no', 'AUTH_SESSION_LIMITS must be on or off'],
    ['AI_DB_URL=https://x', 'AI_DB_URL must be a postgres URL'],
    ['AI_DB_URL=postgresql://palisade_gateway:p%C3%A9@x:6543/postgres', 'AI_DB_URL needs a password of ASCII'],
    ['SUPABASE_ACCESS_TOKEN=mine', 'SUPABASE_ACCESS_TOKEN is not an access token'],
    ['SUPABASE_DB_URL=x', 'SUPABASE_DB_URL is not a secret of the functions'],
    ['PALISADE_PORT=1', 'PALISADE_PORT is not a secret of the functions'],
    ['lower=1', 'lower is not written as a variable'],
    ['STRIPE_SECRET_KEY=hunter2', 'STRIPE_SECRET_KEY'],
    ['SUPABASE_DB_PASSWORD=hunter2#hunter2', 'SUPABASE_DB_PASSWORD has a # in it'],
    ['export A = hunter2 hunter2#x', 'A has a # in it'],
  ])('%s', async (line, why) => {
    write(line)

    const refused = expect(readProduction(file)).rejects
    await refused.toThrow(why)
    await refused.not.toThrow(/hunter2|:b@|p%C3/)
  })
})

test('a comment has a space before it, and what has quotes may have a #', async () => {
  write(`${good}# A=1#2\nA=one two # three\nB="one#two"\nC='#'\nD=\nE=5 #\n`)

  const { functionSecrets } = await readProduction(file)

  expect(Object.fromEntries(functionSecrets)).toEqual({ A: 'one two', B: 'one#two', C: '#', E: '5' })
})

test('wildcards inside a host, and schemes of apps, are no address of anybody', async () => {
  write(`${good}REDIRECT_URLS=https://*-team.vercel.app/**,https://*.example.com,myapp://**\n`)

  expect((await readProduction(file)).REDIRECT_URLS).toHaveLength(3)
})

test.each([
  ['loopback', ['localhost', 'LOCALHOST', '127.0.0.1', '127.1', '2130706433', '0x7f000001', '017700000001', '[::1]']],
  ['loopback', ['::1', '[::ffff:127.0.0.1]', 'localhost.']],
  ['machine', ['0.0.0.0', '0', '[::]', 'app.localhost', 'host.docker.internal', 'host.containers.internal']],
  ['network', ['10.1.2.3', '172.31.0.1', '192.168.1.1', '169.254.169.254', '100.64.0.1', '[fd00::1]', '[fe80::1]']],
  ['network', ['db', 'mac.local', 'auth.internal', '0xc0a80101', '[::ffff:10.0.0.1]']],
  [
    'public',
    ['app.example.com', '8.8.8.8', '172.32.0.1', '[2606:4700::1111]', 'localhost.example.com', '127.example.com'],
  ],
])('a host that is %s: %j', (reach, hosts) => {
  expect(hosts.map((host) => [host, reachOf(host)])).toEqual(hosts.map((host) => [host, reach]))
})

const whole = `${good}REDIRECT_URLS=https://app.example.com/**, myapp://callback
SMTP_URL=smtps://mailer:p%40ss%20word@smtp.example.com
MAIL_FROM=Your App <noreply@example.com>
CAPTCHA_PROVIDER=hcaptcha
CAPTCHA_SECRET=captcha-secret
OPENROUTER_API_KEY=sk-or-1
EMPTY_ONE=
`
const ref = 'abcdefghijklmnopqrst'

test('the example as it stands deploys nothing: whoever forgets to fill it in is told so', async () => {
  write(readFileSync(join(root, '.env.production.example'), 'utf8'))

  const { functionSecrets, ...values } = await readProduction(file)

  expect(values).toEqual({ AUTH_TEAM_HOOKS: 'off', AUTH_SESSION_LIMITS: 'on' })
  expect(functionSecrets.size).toBe(0)
})

test('functions get what is not for the deployment alone', async () => {
  write(whole)

  const { functionSecrets } = await readProduction(file)

  expect([...functionSecrets.keys()].sort()).toEqual(['MAIL_FROM', 'OPENROUTER_API_KEY', 'SMTP_URL'])
})

test('the configuration has the values of the file for this project, and no secret in its text', async () => {
  write(whole)

  const { text, env } = productionConfig('project_id = "palisade"\n', ref, await readProduction(file))

  expect(parse(text)).toMatchObject({
    project_id: 'palisade',
    remotes: {
      production: {
        project_id: ref,
        auth: {
          site_url: 'https://app.example.com',
          additional_redirect_urls: ['https://app.example.com/**', 'myapp://callback'],
          captcha: { enabled: true, provider: 'hcaptcha', secret: 'env(PALISADE_DEPLOY_CAPTCHA_SECRET)' },
          hook: { password_verification_attempt: { enabled: false }, mfa_verification_attempt: { enabled: false } },
        },
      },
    },
  })
  expect(text).toMatch(/host = "smtp.example.com"\nport = 465\nuser = "mailer"\nadmin_email = "noreply@example.com"/)
  expect(text).not.toMatch(/captcha-secret|p@ss word|p%40ss/)
  expect(env).toEqual({
    PALISADE_DEPLOY_SMTP_PASSWORD: 'p@ss word',
    PALISADE_DEPLOY_CAPTCHA_SECRET: 'captcha-secret',
  })
})

test('what the file does not say is not in the configuration, so that it stays as it is', async () => {
  write(`${good}AUTH_TEAM_HOOKS=on\n`)

  const { text, env } = productionConfig('', ref, await readProduction(file))

  expect(text).not.toMatch(/smtp|captcha|additional_redirect_urls/)
  expect(parse(text)).toHaveProperty('remotes.production.auth.hook.mfa_verification_attempt.enabled', true)
  expect(env).toEqual({})
})

test('limits of sessions are those of the project file, or left out of it, and nothing else is', async () => {
  const base = readFileSync(join(root, 'supabase', 'config.toml'), 'utf8')
  const configured = async (line: string) => {
    write(good + line)
    return parse(productionConfig(base, ref, await readProduction(file)).text)
  }

  const [on, off] = [await configured(''), await configured('AUTH_SESSION_LIMITS=off\n')]

  expect(on).toHaveProperty('auth.sessions', { timebox: '720h', inactivity_timeout: '168h' })
  expect(off).not.toHaveProperty('auth.sessions')
  expect({ ...off, auth: { ...Object(off.auth), ...{ sessions: Object(on.auth).sessions } } }).toEqual(on)
})

test('secrets are taken out of what is printed, also those that came to be known later', async () => {
  write(whole)
  const secrets = concealer(await readProduction(file))
  secrets.add('sb_secret_later')

  const shown = secrets.hide('sk-or-1 p@ss word captcha-secret sb_secret_later noreply@example.com')

  expect(shown).toBe('*** *** *** *** noreply@example.com')
})

test("a password's verifier is what PostgreSQL computes", () => {
  // The example of RFC 7677, with the keys that follow from it.
  const salt = Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64')

  expect(scramVerifier('pencil', salt)).toBe(
    'SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=',
  )
  expect(() => scramVerifier('pässword')).toThrow('printable ASCII')
})
