/** What the tests run against: something of their own (see projects.ts), or whatever the environment names (see docs/stack.md). */

export type Target = {
  apiUrl: string
  restUrl: string
  functionsUrl: string
  /** Role postgres, as migrations and DBAs have it. */
  dbUrl: string
  mailUrl: string
  publishableKey: string
  secretKey: string
  /** The same database as a superuser; null against a target from the environment that does not name it. */
  superuserUrl: string | null
  /** The stack has none on a database that was handed in by PALISADE_DB_URL. */
  hasRealtime: boolean
  /** The stack that the tests started themselves; null against a target from the environment. */
  own: { data: string; port: number } | null
  /** The port of the pooler that functions go by, in `npm run test:pooler`. */
  poolerPort: number | null
}

const chosen: { target?: Partial<Target>; project: string } = { project: 'unit or cluster' }

/** For the setup files of the projects: what the file that runs next has. */
export function setTarget(project: string, target: Partial<Target>): void {
  Object.assign(chosen, { project, target })
}

/** What the running file has; asking for more than its project has fails. */
export const target = (): Target =>
  new Proxy({} as Target, {
    get(_, name) {
      const value = chosen.target?.[name as keyof Target]
      if (value !== undefined) return value
      throw new Error(
        `This file asks for the ${String(name)} of its target, which project "${chosen.project}" does not have. Say what the file needs in tests/projects.ts.`,
      )
    },
  })
