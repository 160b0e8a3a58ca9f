/** What the tests run against: a stack of their own, or whatever the environment names (see docs/stack.md). */
import { inject } from 'vitest'

export type Target = {
  apiUrl: string
  restUrl: string
  functionsUrl: string
  /** Role postgres, as migrations and DBAs have it. */
  dbUrl: string
  mailUrl: string
  publishableKey: string
  secretKey: string
  /** The stack that the tests started themselves; null against a target from the environment. */
  own: { data: string; port: number; superuserUrl: string } | null
}

declare module 'vitest' {
  interface ProvidedContext {
    target: Target
  }
}

export const target = (): Target => inject('target')
