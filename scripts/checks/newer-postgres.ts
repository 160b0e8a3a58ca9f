/**
 * SQL that PostgreSQL 15 or its pg_cron 1.4 does not have, which self-hosted projects may run. A function that is not there is
 * missed only when it is called, so neither a parser nor CREATE FUNCTION finds it: this is a list of what came later. It is
 * compared with servers of both versions by tests/stack/postgres-versions.test.ts.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { root } from '../../stack/config.ts'
import names from './newer-names.json' with { type: 'json' }
import { trackedFiles } from './tracked-files.ts'

type Newer = { what: string; since: string; pattern: RegExp }

/** A call's arguments, in which calls may stand, but none in those. */
const argument = String.raw`(?:[^(),]|\([^()]*\))*`

/** What is new and has no name of its own in the catalogue. `tests/support/newer-sql.ts` has an example of each. */
const syntax: Newer[] = [
  { what: 'the privilege MAINTAIN', since: '17', pattern: /\b(?:grant|revoke)\b[^;]*\bmaintain\b|'maintain'/gi },
  {
    what: 'a membership WITH INHERIT or SET',
    since: '16',
    pattern: /\bwith\s+(?:inherit|set)\s+(?:option|true|false)\b/gi,
  },
  {
    what: 'JSON_ARRAY, JSON_ARRAYAGG, JSON_OBJECTAGG',
    since: '16',
    pattern: /\bjson_(?:array|arrayagg|objectagg)\s*\(/gi,
  },
  {
    what: 'JSON_OBJECT of keys and values',
    since: '16',
    pattern: /\bjson_object\s*\([^;]*?(?:(?<!:):(?!:)|\bvalue\b)/gi,
  },
  // Not at the end of a sentence: messages say so, too.
  { what: 'IS JSON', since: '16', pattern: /\bis\s+(?:not\s+)?json\b(?![.'])/gi },
  {
    what: 'JSON_EXISTS, JSON_QUERY, JSON_SCALAR, JSON_SERIALIZE, JSON_TABLE, JSON_VALUE',
    since: '17',
    pattern: /\bjson_(?:exists|query|scalar|serialize|table|value)\s*\(/gi,
  },
  {
    what: 'a jsonpath that converts',
    since: '17',
    pattern: /\$[^'"\s]*\.(?:bigint|boolean|date|decimal|integer|number|string|time|timestamp)(?:_tz)?\(\d*\)/gi,
  },
  { what: 'MERGE with RETURNING', since: '17', pattern: /\bmerge\s+into\b[^;]*\breturning\b/gi },
  { what: 'MERGE with NOT MATCHED BY', since: '17', pattern: /\bnot\s+matched\s+by\b/gi },
  { what: 'numbers with _, 0x, 0o and 0b', since: '16', pattern: /(?<![\w$.'"-])(?:\d+_\d|0[xob][\da-f])/gi },
  { what: 'random() between two numbers', since: '17', pattern: /\brandom\s*\(\s*[^)\s]/gi },
  {
    what: 'generate_series() in a time zone',
    since: '16',
    pattern: new RegExp(String.raw`\bgenerate_series\s*\(${argument}(?:,${argument}){3}\)`, 'gi'),
  },
  { what: 'AT LOCAL', since: '17', pattern: /\bat\s+local\b/gi },
  { what: 'an infinite interval', since: '17', pattern: /\binterval\s+'[-+]?infinity'|'[-+]?infinity'::interval\b/gi },
  { what: 'SET EXPRESSION of a column', since: '17', pattern: /\bset\s+expression\b/gi },
  {
    what: 'STORAGE in CREATE TABLE',
    since: '16',
    pattern: /(?<!\bset\s)\bstorage\s+(?:plain|external|extended|main|default)\b/gi,
  },
  { what: 'CREATE STATISTICS without a name', since: '16', pattern: /\bcreate\s+statistics\s+(?:\(|on\b)/gi },
  { what: 'the collation pg_c_utf8', since: '17', pattern: /\bpg_c_utf8\b/gi },
  { what: 'an event trigger on login', since: '17', pattern: /\bon\s+login\b/gi },
  { what: 'SYSTEM_USER', since: '16', pattern: /\bsystem_user\b/gi },
  {
    what: 'EXPLAIN with GENERIC_PLAN, MEMORY or SERIALIZE',
    since: '16',
    pattern: /\bexplain\s*\([^)]*\b(?:generic_plan|memory|serialize)\b/gi,
  },
  { what: 'COPY with ON_ERROR', since: '17', pattern: /\bcopy\b[^;]*\bon_error\b/gi },
  {
    what: 'a schedule in seconds (private.schedule_job knows what to do)',
    since: 'pg_cron 1.5',
    pattern: /\bcron\.\w+\s*\([^;]*'\s*\d+\s+seconds?\s*'/gi,
  },
  {
    what: 'a schedule on the last day of a month',
    since: 'pg_cron 1.6',
    pattern: /\b(?:cron\.\w+|schedule_job)\s*\([^;]*'\S+ \S+ \$ /gi,
  },
]

const named: Newer[] = Object.entries(names).flatMap(([since, { functions, settings, roles, relations }]) => [
  ...functions.map((name) => ({ what: `${name}()`, since, pattern: new RegExp(String.raw`\b${name}\s*\(`, 'gi') })),
  ...[...settings, ...roles, ...relations].map((name) => ({
    what: name,
    since,
    pattern: new RegExp(String.raw`\b${name}\b`, 'gi'),
  })),
])

/**
 * All of the list.
 * @internal For tests: each is provoked.
 */
export const newer = [...syntax, ...named]

export async function findNewerSql(): Promise<string[]> {
  const files = (await trackedFiles()).filter((file) =>
    /^(?:sql|policies|supabase)\/.*\.sql$|^functions\/.*\.ts$/.test(file),
  )
  const found = await Promise.all(files.map(async (file) => newerIn(file, await readFile(join(root, file), 'utf8'))))
  return found.flat()
}

/**
 * What is newer in one file, SQL or TypeScript.
 * @internal For tests: a file of theirs.
 */
export function newerIn(file: string, text: string): string[] {
  const sql = withoutComments(file.endsWith('.ts') ? onlyQueries(text) : text)
  return newer.flatMap(({ what, since, pattern }) =>
    [...sql.matchAll(pattern)].map((match) => {
      const line = sql.slice(0, match.index + match[0].length).split('\n').length
      return `${file}:${line} ${what}: since ${/^\d/.test(since) ? 'PostgreSQL ' : ''}${since}`
    }),
  )
}

const blank = (text: string) => text.replaceAll(/[^\n]/g, ' ')

/** Strings stay: EXECUTE runs them. */
const withoutComments = (text: string) =>
  text.replaceAll(/'(?:[^']|'')*'|"[^"]*"|--[^\n]*|\/\*[\s\S]*?\*\//g, (found) =>
    /^['"]/.test(found) ? found : blank(found),
  )

/** The templates of `sql`, on their lines. */
function onlyQueries(text: string): string {
  let rest = 0
  let result = ''
  for (const match of text.matchAll(/\b(?:sql|tx)(?:<[^`]*?>)?`([^`]*)`/g)) {
    result += blank(text.slice(rest, match.index)) + match[0]
    rest = match.index + match[0].length
  }
  return result
}
