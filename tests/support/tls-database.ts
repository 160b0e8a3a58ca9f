/** A server of PostgreSQL that takes no connection without TLS, with a certificate for "localhost" made for this run. */
import { execFileSync } from 'node:child_process'
import { chownSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import postgres from 'postgres'
import { startScratch } from '../../stack/platform/scratch.ts'

export async function startTlsDatabase() {
  const scratch = await startScratch()
  const plainUrl = await scratch.createDatabase('behind_tls')
  const superuser = postgres(scratch.superuserUrl('postgres'), { max: 1, onnotice: () => {} })
  const [row] = await superuser`show data_directory`
  const folder = String(row?.data_directory)
  const ca = makeCertificate(folder)
  for (const set of ["ssl_cert_file = 'certificate.pem'", "ssl_key_file = 'key.pem'", 'ssl = on'])
    await superuser.unsafe(`alter system set ${set}`)
  const hba = join(folder, 'pg_hba.conf')
  const before = readFileSync(hba)
  /** Whether the server also takes connections without TLS, or no TLS at all. */
  const serve = async (mode: 'only TLS' | 'no TLS') => {
    writeFileSync(hba, mode === 'only TLS' ? 'hostssl all all all scram-sha-256\n' : before)
    const admin = postgres(urlOf(scratch.superuserUrl('postgres'), 'sslmode=prefer'), { max: 1, onnotice: () => {} })
    await admin.unsafe(`alter system set ssl = ${mode === 'only TLS' ? 'on' : 'off'}`)
    await admin`select pg_reload_conf()`
    await admin.end()
  }
  await superuser.end()
  await serve('only TLS')
  const other = makeCertificate(folder, 'other')
  return {
    ca,
    /** Of the certificate, for a server of another kind. */
    key: readFileSync(join(folder, 'key.pem'), 'utf8'),
    /** Of another authority. */
    otherCa: other,
    /** As role postgres; by its address, or by the name that the certificate has. */
    url: (query = '', host = 'localhost') => urlOf(plainUrl.replace('127.0.0.1', host), query),
    serve,
    stop: () => scratch.stop(),
  }
}

const urlOf = (url: string, query: string) => url + (query && `?${query}`)

function makeCertificate(folder: string, prefix = ''): string {
  const [key, certificate] = [join(folder, `${prefix}key.pem`), join(folder, `${prefix}certificate.pem`)]
  const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  const name = ['-subj', '/CN=palisade test', '-addext', 'subjectAltName=DNS:localhost']
  execFileSync('openssl', ['req', ...kind, ...name, '-keyout', key, '-out', certificate], { stdio: 'ignore' })
  const { uid, gid } = statSync(folder)
  for (const file of [key, certificate]) chownSync(file, uid, gid)
  return readFileSync(certificate, 'utf8')
}
