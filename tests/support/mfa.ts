/** A user's authenticator app. */
import { Secret, TOTP } from 'otpauth'
import { target } from '../target.ts'
import { clientWith, type TestUser } from './users.ts'

const codeOf = (secret: string, timestamp = Date.now()): string =>
  new TOTP({ secret: Secret.fromBase32(secret) }).generate({ timestamp })

export type Factor = { factorId: string; secret: string }

/** Enrols an authenticator app and proves it; the client's session is aal2 afterwards. */
export async function enrol(client: TestUser['client']): Promise<Factor> {
  const enrolled = await client.auth.mfa.enroll({ factorType: 'totp', friendlyName: `app ${crypto.randomUUID()}` })
  if (enrolled.error) throw enrolled.error
  const factor = { factorId: enrolled.data.id, secret: enrolled.data.totp.secret }
  await prove(client, factor)
  return factor
}

/** Raises the client's session to aal2. */
export async function prove(client: TestUser['client'], { factorId, secret }: Factor): Promise<void> {
  const { error } = await client.auth.mfa.challengeAndVerify({ factorId, code: codeOf(secret) })
  if (error) throw error
}

/** Signs in once more with the password only. */
export async function signInAgain({ email, password }: TestUser): Promise<TestUser['client']> {
  const client = clientWith(target().publishableKey)
  const { error } = await client.auth.signInWithPassword({ email, password })
  if (error) throw error
  return client
}
