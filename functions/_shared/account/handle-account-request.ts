/**
 * The endpoint account without its environment: GET says what a link in a mail would undo and changes nothing, POST does it. As a page for
 * people, or as JSON for an app that has a page of its own.
 */
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { type Answer, answerUserCall } from '../http/answer-user-call.ts'
import { BodyTooLarge, readBody, readJson } from '../http/read-body.ts'
import type { AccountDatabase, Change } from './account-database.ts'
import { failurePage, undoPage } from './undo-page.ts'

export type AccountWorld = {
  database: AccountDatabase
  /** Epoch milliseconds. */
  now(): number
  newId(): string
  log(line: Record<string, unknown>): void
}

const methods = 'GET, POST, OPTIONS'
const tokenForm = /^[\w-]{43}$/
const unknown = () => new AppError('not_found', { message: 'This link is unknown, or long over.' })

export function handleAccountRequest(request: Request, world: AccountWorld): Promise<Response> {
  const handle = (path: string) => route(request, path, world)
  return answerUserCall(request, { name: 'account', methods, route: handle }, world)
}

async function route(request: Request, path: string, { database }: AccountWorld): Promise<Answer> {
  if (path !== '/account/undo') throw new AppError('not_found')
  if (request.method === 'GET') {
    const token = new URL(request.url).searchParams.get('token') ?? ''
    const isPage = !/\bapplication\/json\b/.test(request.headers.get('accept') ?? '')
    return answerIn(isPage, token, () => database.show(checked(token)))
  }
  if (request.method !== 'POST') throw new AppError('method_not_allowed', { headers: { allow: methods } })
  const isPage = /^application\/x-www-form-urlencoded\b/i.test(request.headers.get('content-type') ?? '')
  const token = isPage
    ? await readForm(request)
    : (await readJson(request, z.strictObject({ token: z.string() }))).token
  return answerIn(isPage, token, () => database.undo(checked(token)))
}

/** The database compares hashes; what has another form is nobody's, and is not asked for. */
function checked(token: string): string {
  if (!tokenForm.test(token)) throw unknown()
  return token
}

const formLimitBytes = 1_000

async function readForm(request: Request): Promise<string> {
  const body = await readBody(request, { limitBytes: formLimitBytes }).catch((cause: unknown) => {
    throw cause instanceof BodyTooLarge ? new AppError('request_too_large', { cause }) : cause
  })
  return new URLSearchParams(new TextDecoder().decode(body)).get('token') ?? ''
}

async function answerIn(isPage: boolean, token: string, ask: () => Promise<Change>): Promise<Answer> {
  try {
    const change = await ask()
    const log = { change: change.change, state: change.state }
    return isPage ? { status: 200, page: undoPage(change, token), log } : { status: 200, body: change, log }
  } catch (cause) {
    // What went wrong on our side is logged and told as everywhere.
    if (!isPage || !(cause instanceof AppError) || cause.status >= 500) throw cause
    return { status: cause.status, page: failurePage(cause.message), log: { error_code: cause.code } }
  }
}
