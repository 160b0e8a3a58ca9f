/** Waits when Stripe answers that it is asked too often, which its client does not do by itself. For work that nobody waits for. */

const tries = 6

/** `firstRestMs` is how long the first rest is, about; each is twice as long as the one before. The last answer is given as it is. */
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
