/**
 * What a test file needs is its project. The first list that names the file is the one; a file that none names needs nothing
 * but code, and is of project `unit`. See docs/testing.md.
 */
import { globSync } from 'node:fs'

/** The whole stack: REST, Auth, functions, mail, jobs, and the stand-ins for the world outside. Files take turns. */
const stack = [
  'tests/stories/{accounts,ai,api-keys,attacks,behind-proxy,billing,billing-accounts,billing-attacks,billing-delivery,billing-shops,credentials,first-call,floods,import,jobs}.test.ts',
  'tests/stories/{lock-out,mfa,portfolio,revocation,self-hosted,stolen-session,storage}.test.ts',
  'tests/platform/{gateway,realtime,storage}.test.ts',
  'tests/doubles/{exchanges,stripe-stack}.test.ts',
]

/** Starts what it needs itself: a server that it may crash, a stack of its own, or many processes. */
const cluster = [
  'tests/stack/*.test.ts',
  'tests/platform/{auth-*,catalogue,realtime-limits}.test.ts',
  'tests/stories/chaos.test.ts',
  'tests/scripts/{deploy,doctor,users-import}.test.ts',
  'tests/functions/{database-tls,pooler}.test.ts',
]

/** PostgreSQL, in a database of the file's own. */
const database = [
  'tests/sql/*.test.ts',
  'tests/access/*.test.ts',
  'tests/functions/{ai-ledger,call-sql,billing-database,billing-lost-events,billing-scripts,catalogue}.test.ts',
  'tests/platform/{extensions,jobs,platform}.test.ts',
  'tests/scripts/{doctor-hosted,keys-rotate}.test.ts',
]

/** What needs minutes: `npm run test:long`. Properties are tried more often there. */
const long = [
  'tests/long/*.test.ts',
  'tests/sql/{ai-batches,billing-money,billing-property,credit-lots,credits,plans,portfolio-property,shares}.test.ts',
]

/** What functions do by way of a pooler, and with more than one process of them: `npm run test:pooler`. */
const pooler = ['tests/stories/{ai,billing,credentials}.test.ts', 'tests/pooler/functions.test.ts']
const poolerCluster = ['tests/pooler/chaos.test.ts']

const { API_URL, PALISADE_DB_URL } = process.env
/** A database that the environment names is one for all: files that need a database, too, take turns on it. */
export const isGiven = Boolean(API_URL ?? PALISADE_DB_URL)

export const files = {
  unit: {
    include: ['tests/**/*.test.ts'],
    exclude: [...stack, ...cluster, ...database, 'tests/{long,pooler}/*.test.ts'],
  },
  database: { include: database },
  cluster: { include: cluster },
  long: { include: long },
  pooler: { include: pooler },
  poolerCluster: { include: poolerCluster },
  stack: { include: isGiven ? [...stack, ...database] : stack },
}

/** A pattern that names no file is a mistake in this file. */
for (const pattern of [...stack, ...cluster, ...database, ...long, ...pooler, ...poolerCluster]) {
  if (globSync(pattern).length === 0) throw new Error(`tests/projects.ts: ${pattern} names no file.`)
}
