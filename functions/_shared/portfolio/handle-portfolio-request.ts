/** The portfolio endpoint without its environment: POST /portfolio/sync brings the caller's portfolio up to date. */
import { requireUserToken } from '../auth/identify-caller.ts'
import type { UserRpc } from '../auth/user-rpc.ts'
import type { UserCaller } from '../auth/verify-user-token.ts'
import { AppError, renderError, toAppError } from '../errors.ts'
import { answerPreflight, corsHeaders } from '../http/cors.ts'
import { requestId as requestIdOf } from '../http/request-id.ts'
import { runSyncs } from './run-syncs.ts'
import type { PortfolioWorld } from './world.ts'

export type PortfolioEndpointWorld = PortfolioWorld & {
  verifyUserToken(token: string): Promise<UserCaller>
  rpc: UserRpc
  newId(): string
}

export async function handlePortfolioRequest(request: Request, world: PortfolioEndpointWorld): Promise<Response> {
  if (request.method === 'OPTIONS') return answerPreflight(request, 'POST, OPTIONS')
  const requestId = requestIdOf(request.headers, world.newId)
  const { pathname } = new URL(request.url)
  const line = { message: 'portfolio', request_id: requestId, path: pathname }
  const response = await sync(request, pathname, requestId, world)
    .then((body) => {
      world.log({ ...line, level: 'info', http_status: 200, syncs: body.syncs.length })
      return Response.json(body)
    })
    .catch((cause: unknown) => {
      const error = toAppError(cause)
      const level = error.status >= 500 ? 'error' : 'info'
      world.log({ ...line, level, http_status: error.status, error_code: error.code })
      return renderError(error, world.now())
    })
  for (const [name, value] of Object.entries({
    ...corsHeaders,
    'x-request-id': requestId,
    'cache-control': 'no-store',
  }))
    response.headers.set(name, value)
  return response
}

async function sync(request: Request, pathname: string, requestId: string, world: PortfolioEndpointWorld) {
  if (!/^\/portfolio\/sync\/?$/.test(pathname)) throw new AppError('not_found')
  if (request.method !== 'POST') throw new AppError('method_not_allowed', { headers: { allow: 'POST, OPTIONS' } })
  const { token, userId } = await requireUserToken(request.headers, 'A sync needs', world)
  // SQL decides by the token whether this caller may; what follows trusts the user's id.
  await world.rpc(token, 'get_my_portfolio_syncs')
  const syncs = await runSyncs({ ofUser: userId, requestId }, world)
  return { syncs, credentials: await world.rpc(token, 'get_my_portfolio_syncs') }
}
