/**
 * UPDATE and DELETE without WHERE inside our functions. Hosted Data API sessions load safeupdate, which refuses them
 * with SQLSTATE 21000, inside functions, too; the local stack has no such module, so this reads the functions instead.
 *
 * libpg-query parses SQL, but not PL/pgSQL. So a PL/pgSQL body is cut into pieces at its semicolons, and every piece
 * that says update or delete must be read as SQL. What cannot be read is reported as well: nothing passes unseen.
 */
import { parse } from 'libpg-query'
import postgres from 'postgres'

type Token = { kind: 'word' | 'text' | 'other'; value: string; start: number; end: number; depth: number }

/** One message for each offence in the functions and procedures of schemas public and private. */
export async function findUnguardedStatements(url: string): Promise<string[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  try {
    return await findUnguardedIn(await readDefinitions(sql))
  } finally {
    await sql.end()
  }
}

/**
 * CREATE FUNCTION statements of all our functions and procedures, as PostgreSQL prints them.
 * @internal For tests: what an open transaction has.
 */
export async function readDefinitions(sql: postgres.Sql): Promise<string[]> {
  const rows = await sql<{ definition: string }[]>`
    select pg_catalog.pg_get_functiondef(p.oid) as definition
    from pg_catalog.pg_proc p
    where p.pronamespace in ('public'::regnamespace, 'private'::regnamespace) and p.prokind in ('f', 'p')
    order by p.oid::regprocedure::text`
  return rows.map((row) => row.definition)
}

/** @internal For tests: functions of theirs. */
export async function findUnguardedIn(definitions: string[]): Promise<string[]> {
  const found: string[] = []
  for (const definition of definitions) found.push(...(await findInDefinition(definition)))
  return found
}

async function findInDefinition(definition: string): Promise<string[]> {
  const statement = at(await parse(definition), 'stmts', 0, 'stmt', 'CreateFunctionStmt')
  const name = list(at(statement, 'funcname'))
    .map((part) => at(part, 'String', 'sval'))
    .join('.')
  const option = (wanted: string) => {
    const found = list(at(statement, 'options')).find((entry) => at(entry, 'DefElem', 'defname') === wanted)
    return at(found, 'DefElem', 'arg')
  }
  const language = at(option('language'), 'String', 'sval')
  const body = at(option('as'), 'List', 'items', 0, 'String', 'sval')
  const findings = async () => {
    if (typeof body !== 'string') return unguarded(at(statement, 'sql_body')) // return … or begin atomic: parsed already
    if (language === 'sql') return findInSql(body)
    if (language === 'plpgsql') return findInPlpgsql(body)
    return [`its language ${language} cannot be read`]
  }
  return (await findings()).map((finding) => `${name}: ${finding}`)
}

async function findInSql(text: string): Promise<string[]> {
  return unguarded(await parse(text))
}

/** Every UPDATE and DELETE without WHERE in a parse tree, however deep: CTEs, too. ON CONFLICT DO UPDATE and MERGE are neither. */
function unguarded(node: unknown): string[] {
  if (typeof node !== 'object' || node === null) return []
  const here = (['UpdateStmt', 'DeleteStmt'] as const).flatMap((kind) => {
    const statement = at(node, kind)
    if (statement === undefined || at(statement, 'whereClause') !== undefined) return []
    const table = [at(statement, 'relation', 'schemaname'), at(statement, 'relation', 'relname')]
      .filter(Boolean)
      .join('.')
    return [kind === 'UpdateStmt' ? `UPDATE ${table} without WHERE` : `DELETE FROM ${table} without WHERE`]
  })
  return [...here, ...Object.values(node).flatMap(unguarded)]
}

// PL/pgSQL -------------------------------------------------------------------------------------------------------------

async function findInPlpgsql(body: string): Promise<string[]> {
  const found: string[] = []
  for (const piece of pieces(tokens(body))) {
    const words = piece.map((token, index) =>
      token.kind === 'word' && piece[index - 1]?.value !== '.' ? token.value : '',
    )
    const first = words.findIndex((word, index) => /^(update|delete)$/.test(word) && !isLock(piece, index))
    if (first >= 0) found.push(...(await findInPiece(body, piece, words, first)))
    const execute = words.indexOf('execute')
    if (execute >= 0 && execute < piece.length - 1) found.push(...(await findInExecute(body, piece, execute)))
  }
  return found
}

/** `for update` and `for no key update` at the end of a query lock rows; they change none. */
function isLock(piece: Token[], index: number): boolean {
  const before = piece
    .slice(0, index)
    .map((token) => token.value)
    .join(' ')
  const after = piece[index + 1]?.value ?? ';'
  return /\bfor( no key)?$/.test(before) && /^(;|\)|of|nowait|skip|limit|offset|into|for)$/.test(after)
}

/** The piece from where its SQL begins: the earliest verb outside parentheses, not after the update or delete, that parses. */
async function findInPiece(body: string, piece: Token[], words: string[], first: number): Promise<string[]> {
  for (const [index, word] of words.entries()) {
    if (index > first) break
    if (piece[index]?.depth !== 0 || !/^(with|insert|update|delete|merge|select)$/.test(word)) continue
    const statement = await parse(withoutInto(body, piece.slice(index))).catch(() => null)
    if (statement) return unguarded(statement)
  }
  return [`cannot be read: ${body.slice(piece[0]?.start, piece.at(-1)?.end)}`]
}

/** EXECUTE of a string that can be told from the source: constants, ||, format(). What is only known at run time stays `x`. */
async function findInExecute(body: string, piece: Token[], execute: number): Promise<string[]> {
  const rest = piece.slice(execute + 1)
  const end = rest.findIndex((token) => token.depth === 0 && /^(into|using)$/.test(token.value))
  const expression = end < 0 ? rest : rest.slice(0, end)
  const source = body.slice(piece[execute]?.end, expression.at(-1)?.end).trim()
  const tree = await parse(`select ${source}`).catch(() => null)
  const text = tree ? textOf(at(tree, 'stmts', 0, 'stmt', 'SelectStmt', 'targetList', 0, 'ResTarget', 'val')) : source
  if (!/\b(update|delete)\b/i.test(text)) return []
  return findInSql(text).catch(() => [`cannot be read: execute ${source}`])
}

function textOf(node: unknown): string {
  const constant = at(node, 'A_Const', 'sval', 'sval')
  if (typeof constant === 'string') return constant
  const cast = at(node, 'TypeCast', 'arg')
  if (cast !== undefined) return textOf(cast)
  if (at(node, 'A_Expr', 'name', 0, 'String', 'sval') === '||') {
    return textOf(at(node, 'A_Expr', 'lexpr')) + textOf(at(node, 'A_Expr', 'rexpr'))
  }
  const name = list(at(node, 'FuncCall', 'funcname')).at(-1)
  if (at(name, 'String', 'sval') !== 'format') return 'x'
  return textOf(at(node, 'FuncCall', 'args', 0)).replaceAll(/%(?:\d+\$)?-?\d*[ILs]/g, (mark) =>
    mark.endsWith('L') ? "'x'" : 'x',
  )
}

/** Splits at semicolons and at `loop`, where the query of a FOR ends and the first statement inside begins. */
function pieces(all: Token[]): Token[][] {
  const result: Token[][] = [[]]
  for (const token of all) {
    const ends = token.depth === 0 && (token.value === ';' || (token.kind === 'word' && token.value === 'loop'))
    if (ends) result.push([])
    else result.at(-1)?.push(token)
  }
  return result.filter((piece) => piece.length > 0)
}

/** A statement's text without PL/pgSQL's INTO [STRICT] target, …, which SQL does not know. */
function withoutInto(body: string, piece: Token[]): string {
  const start = piece[0]?.start ?? 0
  const into = piece.findIndex((token, index) => {
    const before = piece[index - 1]?.value ?? ''
    return token.kind === 'word' && token.value === 'into' && token.depth === 0 && !/^(insert|merge)$/.test(before)
  })
  const keyword = piece[into]
  const text = body.slice(start, piece.at(-1)?.end)
  if (!keyword) return text
  const name = String.raw`(?:[\w$]+|"(?:[^"]|"")*")`
  const target = String.raw`${name}(?:\s*\.\s*${name})*(?:\s*\[[^\]]*\])*`
  const clause = new RegExp(String.raw`^into\s+(?:strict\s+)?${target}(?:\s*,\s*${target})*`, 'i')
  return text.slice(0, keyword.start - start) + text.slice(keyword.start - start).replace(clause, '')
}

/** Words, strings and signs of a body, without comments; depth counts parentheses and brackets. */
function tokens(body: string): Token[] {
  const pattern =
    /(?<space>\s+|--[^\n]*|\/\*[\s\S]*?\*\/)|(?<text>\$(?<tag>[A-Za-z_]\w*)?\$[\s\S]*?\$\k<tag>\$|[eE]'(?:[^'\\]|\\[\s\S]|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*")|(?<word>[\p{L}_][\p{L}\p{N}_$]*)|[\s\S]/gu
  const result: Token[] = []
  let depth = 0
  for (const match of body.matchAll(pattern)) {
    const { space, text, word } = match.groups ?? {}
    if (space !== undefined) continue
    if (!text && !word && /[)\]]/.test(match[0])) depth -= 1
    const value = word?.toLowerCase() ?? text ?? match[0]
    const kind = word ? 'word' : text ? 'text' : 'other'
    result.push({ kind, value, start: match.index, end: match.index + match[0].length, depth })
    if (!text && !word && /[([]/.test(match[0])) depth += 1
  }
  return result
}

// Parse trees are plain JSON -------------------------------------------------------------------------------------------

const list = (node: unknown): unknown[] => (Array.isArray(node) ? node : [])

/** What a path of keys leads to, or undefined. */
function at(node: unknown, ...path: (string | number)[]): unknown {
  return path.reduce<unknown>(
    (value, key) => (typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined),
    node,
  )
}
