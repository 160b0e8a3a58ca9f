/**
 * Loads one exchange of ccxt when it is needed: a twentieth of the whole package's source. ccxt's `exports` has no
 * single exchanges, so functions/deno.json maps each file: a deployment uploads every file of a mapped folder, and what is mapped.
 */
import { z } from 'zod'
import { ExchangeFailure } from './failure.ts'

type ExchangeClass = new (settings: object) => object

/** Spelled out, so that a deployment's bundler finds them. Another one needs a line here and one in functions/deno.json. */
const bundled = new Map<string, () => Promise<unknown>>([
  ['binance', () => import('ccxt/binance.js')],
  ['coinbase', () => import('ccxt/coinbase.js')],
  ['kraken', () => import('ccxt/kraken.js')],
])

const isClass = (value: unknown): value is ExchangeClass => typeof value === 'function'

export async function loadExchange(exchange: string): Promise<ExchangeClass> {
  if (!/^[a-z][a-z0-9]{1,31}$/.test(exchange)) throw new ExchangeFailure('unknown', 'not the name of an exchange')
  const load = bundled.get(exchange) ?? ((): Promise<unknown> => import(`ccxt/${exchange}.js`))
  const module = await load().catch(() => undefined)
  const found = typeof module === 'object' && module !== null && 'default' in module ? module.default : undefined
  if (!isClass(found)) throw new ExchangeFailure('unknown', 'ccxt does not know this exchange')
  return found
}

/** Our names of what a user must enter, by ccxt's. */
const fields = { apiKey: 'api_key', secret: 'api_secret', password: 'passphrase' } as const
export type CredentialField = (typeof fields)[keyof typeof fields]

const isFieldName = (name: string): name is keyof typeof fields => Object.hasOwn(fields, name)
const required = z.object({ requiredCredentials: z.record(z.string(), z.unknown()) })

/** Which fields a key of this exchange has. An exchange that asks for others, as a wallet's address, is refused. */
export async function requiredFields(exchange: string): Promise<CredentialField[]> {
  const Exchange = await loadExchange(exchange)
  const { requiredCredentials } = required.parse(new Exchange({}))
  const names = Object.keys(requiredCredentials).filter((name) => requiredCredentials[name] === true)
  return names.map((name) => {
    if (!isFieldName(name)) throw new ExchangeFailure('unknown', `needs ${name}, which cannot be stored`)
    return fields[name]
  })
}
