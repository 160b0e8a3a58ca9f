/**
 * lite writes the names of a function's arguments as they come, so that `from` is a syntax error; PostgREST quotes them.
 * A plugin of Kysely, which lite builds its statements with, puts the quotes into `name := value`.
 */
type Tree = { [key: string]: unknown }

const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value)
const plainName = /^[a-z_][a-z0-9_]*$/i

/** A piece of SQL that is a name and nothing else. */
function quotedName(value: unknown): unknown {
  if (!isTree(value) || value.kind !== 'RawNode' || !Array.isArray(value.sqlFragments)) return value
  const [name, ...more] = value.sqlFragments
  return more.length === 0 && plainName.test(String(name)) ? { ...value, sqlFragments: [`"${name}"`] } : value
}

function quoteArguments(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(quoteArguments)
  // What a caller sends is a value of the tree, and stays as it is.
  if (!isTree(node) || typeof node.kind !== 'string' || node.kind.includes('Value')) return node
  const copy: Tree = {}
  for (const [key, value] of Object.entries(node)) copy[key] = quoteArguments(value)
  const { sqlFragments, parameters } = copy
  if (node.kind === 'RawNode' && Array.isArray(sqlFragments) && Array.isArray(parameters)) {
    copy.parameters = parameters.map((parameter, at) =>
      String(sqlFragments[at + 1]).startsWith(' := ') ? quotedName(parameter) : parameter,
    )
  }
  return copy
}

export const quotesArguments = {
  transformQuery: <Node extends object>({ node }: { node: Node }): Node =>
    Object.assign({}, node, quoteArguments(node)),
  transformResult: async <Result>({ result }: { result: Result }): Promise<Result> => result,
}
