/** Password hashes of other systems, in the forms that the Auth service's admin API takes. Nothing here ever prints one. */
import { StackError } from '../../stack/config.ts'

/** Firebase's project-wide parameters (Authentication > Users > Password hash parameters). */
export type FirebaseParameters = { signerKey: string; saltSeparator: string; rounds: number; memCost: number }

const forms = [
  /^\$2[aby]\$(?:0[4-9]|1\d|2\d|3[01])\$[./A-Za-z0-9]{53}$/,
  /^\$argon2(?:i|id)\$v=19\$m=[1-9]\d*,t=[1-9]\d*,p=[1-9]\d*\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$/,
  /^\$fbscrypt\$v=1,n=[1-9]\d*,r=[1-9]\d*,p=[1-9]\d*,ss=[A-Za-z0-9+/]+=*,sk=[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]+=*$/,
]

export const isPasswordHash = (hash: string) => forms.some((form) => form.test(hash))

/** Firebase writes some exports in URL-safe base64; the Auth service reads only the standard alphabet, padded. */
const standardBase64 = (text: string) => {
  const plain = text.trim().replaceAll('-', '+').replaceAll('_', '/').replace(/=+$/, '')
  return plain.padEnd(Math.ceil(plain.length / 4) * 4, '=')
}

/** `$fbscrypt$v=1,n=<memory cost>,r=<rounds>,p=1,ss=<salt separator>,sk=<signer key>$<salt>$<hash>` */
export function firebaseHash(parameters: FirebaseParameters, salt: string, hash: string): string {
  const { memCost, rounds, saltSeparator, signerKey } = parameters
  const common = `v=1,n=${memCost},r=${rounds},p=1,ss=${standardBase64(saltSeparator)},sk=${standardBase64(signerKey)}`
  return `$fbscrypt$${common}$${standardBase64(salt)}$${standardBase64(hash)}`
}

export function readFirebaseParameters(given: {
  signerKey: string | undefined
  saltSeparator: string | undefined
  rounds: string | undefined
  memCost: string | undefined
}): FirebaseParameters | undefined {
  const { signerKey, saltSeparator } = given
  if (Object.values(given).every((value) => value === undefined)) return undefined
  const parameters = { rounds: Number(given.rounds), memCost: Number(given.memCost) }
  const areCounts = Object.values(parameters).every((value) => Number.isInteger(value) && value > 0)
  if (!signerKey || !saltSeparator || !areCounts) {
    throw new StackError('Firebase hashes need all of --firebase-signer-key, -salt-separator, -rounds and -mem-cost.')
  }
  return { signerKey, saltSeparator, ...parameters }
}
