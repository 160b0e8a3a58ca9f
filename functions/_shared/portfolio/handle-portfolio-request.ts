/** The portfolio endpoint without its environment: POST /portfolio/sync brings the caller's portfolio up to date. */
import { requireUserToken } from '../auth/identify-caller.ts'
import type { VerifyUserToken } from '../auth/verify-user-token.ts'
import { AppError } from '../errors.ts'
import { type Answer, answerUserCall } from '../http/answer-user-call.ts'
import { type PortfolioWorld, runSyncs } from './run-syncs.ts'

export type PortfolioEndpointWorld = PortfolioWorld & {
  verifyUserToken: VerifyUserToken
  newId(): string
}

export function handlePortfolioRequest(request: Request, world: PortfolioEndpointWorld): Promise<Response> {
  const route = (path: string, requestId: string) => sync(request, path, requestId, world)
  return answerUserCall(request, { name: 'portfolio', methods: 'POST, OPTIONS', route }, world)
}

async function sync(
  request: Request,
  pathname: string,
  requestId: string,
  world: PortfolioEndpointWorld,
): Promise<Answer> {
  if (!/^\/portfolio\/sync\/?$/.test(pathname)) throw new AppError('not_found')
  if (request.method !== 'POST') throw new AppError('method_not_allowed', { headers: { allow: 'POST, OPTIONS' } })
  const asker = await requireUserToken(request.headers, 'A sync needs', requestId, world)
  const syncs = await runSyncs({ asker, requestId }, world)
  const credentials = await world.database.listSyncs(asker)
  return { status: 200, body: { syncs, credentials }, log: { syncs: syncs.length } }
}
