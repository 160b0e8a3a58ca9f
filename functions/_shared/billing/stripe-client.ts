/** The client for Stripe, with the version of the API that everything here was written for. */
import Stripe from 'stripe'

/** Of stripe-node's types. A webhook endpoint is created with the same one: its events have the endpoint's version, not the client's. */
export const apiVersion = '2026-10-28.endive'

const timeoutMs = 10_000
/** All tries of one request together. */
const patientTimeoutMs = 60_000

/**
 * `apiUrl` is a stand-in's, as http://127.0.0.1:54329; undefined is Stripe itself. A patient one waits when Stripe is asked too
 * often; it is for work that asks thousands of times and that nobody waits for.
 */
export function createStripe(secretKey: string, apiUrl?: string, { isPatient = false } = {}): Stripe {
  return new Stripe(secretKey, {
    apiVersion,
    httpClient: Stripe.createFetchHttpClient(isPatient ? patientFetch(fetch) : undefined),
    maxNetworkRetries: 2,
    timeout: isPatient ? patientTimeoutMs : timeoutMs,
    telemetry: false,
    appInfo: { name: 'palisade' },
    ...(apiUrl !== undefined && serverOf(new URL(apiUrl))),
  })
}

function serverOf({ protocol, hostname, port }: URL) {
  const isPlain = protocol === 'http:'
  return {
    protocol: isPlain ? ('http' as const) : ('https' as const),
    host: hostname,
    port: port || (isPlain ? 80 : 443),
  }
}

/** Whether a key is one for real money. */
export const isLiveKey = (secretKey: string): boolean => /^[a-z]+_live_/.test(secretKey)

const tries = 6

/**
 * Waits when Stripe answers that it is asked too often, which its client does not do by itself. For work that nobody waits for.
 * `firstRestMs` is how long the first rest is, about; each is twice as long as the one before. The last answer is given
 * as it is.
 * @internal For tests: how long it rests, without Stripe.
 */
export const patientFetch =
  (ask: typeof fetch, firstRestMs = 500): typeof fetch =>
  async (input, init) => {
    for (let attempt = 1; ; attempt += 1) {
      const response = await ask(input, init)
      if (response.status !== 429 || attempt === tries) return response
      await response.body?.cancel()
      // At random, so that those who were refused together do not come back together.
      const restMs = firstRestMs * 2 ** (attempt - 1) * (0.5 + Math.random())
      await new Promise((resolve) => setTimeout(resolve, restMs))
    }
  }
