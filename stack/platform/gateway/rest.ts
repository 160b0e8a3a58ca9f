/** REST: `@supabase/lite` on a connection of role authenticator, with what PostgREST does and lite does not. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { App } from '@supabase/lite'
import postgres from 'postgres'
import { connect, type Parts, type Service, server, trustGateway } from './lite.ts'

/** The REST service as role authenticator, which becomes anon, authenticated or service_role for each request. */
export async function restService({ keys, settings, dbUrl }: Parts): Promise<Service> {
  const url = dbUrl('authenticator')
  const connection = connect(url, 16)
  const { middleware, fetchAs } = trustGateway()
  const app = new App({
    connection,
    auth: { enabled: false, jwt_secret: keys.innerJwtSecret },
    api: { enabled: true, schemas: settings.api.schemas, max_rows: settings.api.max_rows },
    storage: { enabled: false },
    options: { server: { ...server, middlewares: [middleware] } },
  })
  // PostgREST reads the catalogue itself; lite reads information_schema, where authenticator, which inherits nothing,
  // sees no table. So the catalogue, and only that, is read as postgres.
  const catalogue = connect(dbUrl('postgres'), 1)
  connection.introspect = (options) => catalogue.introspect(options)
  // PostgREST tells SQL about every request (request.headers, request.method, request.path); lite does so for RPC only.
  const requests = new AsyncLocalStorage<Request>()
  const withContext = connection.withContext.bind(connection)
  // PostgREST asks it before everything else of a request, with the rights of the caller.
  let preRequest: string | undefined
  connection.withContext = (context, run, options) => {
    const request = requests.getStore()
    const runAfter: typeof run = async (db) => {
      const asked = preRequest
      if (asked) await db.selectNoFrom((select) => select.fn(asked, []).as('asked')).execute()
      return run(options?.rpc ? db.withPlugin(quotesArguments) : db)
    }
    if (options?.rpc) return withContext(context, runAfter, options)
    if (!request || options?.transaction) return withContext(context, run, options)
    const { method, url: address, headers } = request
    const path = new URL(address).pathname.replace(/^\/rest\/v1/, '')
    const rpc = { method, path, readOnly: false, requestHeaders: Object.fromEntries(headers) }
    return withContext(context, runAfter, { ...options, rpc })
  }
  const listener = postgres(url, { max: 1, onnotice: () => {} })
  const forget = () => void catalogue.clearSchemaCache()
  const readSettings = async () => {
    preRequest = await readPreRequest(listener)
  }
  const heard = (payload: string) => {
    if (payload === 'reload schema' || payload === '') forget()
    if (payload === 'reload config' || payload === '') void readSettings().catch(() => {})
  }
  // Listening anew, it may have missed something.
  await listener.listen('pgrst', heard, () => {
    forget()
    void readSettings().catch(() => {})
  })
  await readSettings()
  const close = async () => {
    await Promise.all([listener.end({ timeout: 1 }), catalogue.close(), connection.close()])
  }
  const fetch = fetchAs(app)
  return { fetch: (request, claims) => requests.run(request, () => fetch(request, claims)), close }
}

/** Of the settings that PostgREST takes from its role: the function before each request. */
async function readPreRequest(sql: postgres.Sql): Promise<string | undefined> {
  const [row] = await sql<{ name: string }[]>`
    select substring(o.setting from '=(.*)$') as name
    from pg_db_role_setting s cross join unnest(s.setconfig) o (setting)
    where s.setrole = 'authenticator'::regrole and o.setting like 'pgrst.db_pre_request=_%'
      and s.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
    order by s.setdatabase desc limit 1`
  return row?.name
}

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

const quotesArguments = {
  transformQuery: <Node extends object>({ node }: { node: Node }): Node =>
    Object.assign({}, node, quoteArguments(node)),
  transformResult: async <Result>({ result }: { result: Result }): Promise<Result> => result,
}
