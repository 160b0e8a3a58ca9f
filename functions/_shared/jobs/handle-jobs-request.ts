/** The jobs endpoint without its environment: who calls, which job, and an answer that says what was done. */
import { AppError, renderError, toAppError } from '../errors.ts'
import { causeOf } from '../failure.ts'
import { requestId as requestIdOf } from '../http/request-headers.ts'
import { type ArchiveWorld, archiveAudit } from './archive-audit.ts'
import { type MailWorld, sendMails } from './send-mails.ts'

/** What it reports is logged and answered as it is. */
type Job = (requestId: string) => Promise<Record<string, unknown>>

export type JobsWorld = ArchiveWorld &
  MailWorld & {
    hasSecretKey(headers: Headers): Promise<boolean>
    /** Whether the database made this token for this job, a moment ago. */
    isJobToken(token: string | null, job: string): Promise<boolean>
    /** Looks at the bytes of new uploads. */
    checkUploads: Job
    /** Syncs every portfolio that is due. */
    syncPortfolios: Job
    /** Undefined when this deployment has no Stripe account. */
    billing: Record<'applyEvents' | 'changeStripe' | 'reconcile', Job> | undefined
    newId(): string
  }

const jobs = new Map<string, (world: JobsWorld, requestId: string) => ReturnType<Job>>([
  ['/jobs/send-mails', sendMails],
  ['/jobs/archive-audit', archiveAudit],
  ['/jobs/check-uploads', (world, requestId) => world.checkUploads(requestId)],
  ['/jobs/sync-portfolios', (world, requestId) => world.syncPortfolios(requestId)],
  ['/jobs/apply-stripe-events', ({ billing }, requestId) => configured(billing).applyEvents(requestId)],
  ['/jobs/change-stripe', ({ billing }, requestId) => configured(billing).changeStripe(requestId)],
  ['/jobs/reconcile-stripe', ({ billing }, requestId) => configured(billing).reconcile(requestId)],
])

function configured<T>(part: T | undefined): T {
  if (part === undefined) throw new AppError('billing_not_configured')
  return part
}

/** For pg_cron and operators, never for browsers: there is no CORS here. */
export async function handleJobsRequest(request: Request, world: JobsWorld): Promise<Response> {
  const requestId = requestIdOf(request.headers, world.newId)
  const { pathname } = new URL(request.url)
  const line = { message: 'job', request_id: requestId, path: pathname }
  const response = await run(request, pathname, requestId, world)
    .then((result) => {
      world.log({ ...line, level: 'info', ...result })
      return Response.json(result)
    })
    .catch((cause: unknown) => {
      const error = toAppError(cause)
      const level = error.status >= 500 ? 'error' : 'info'
      world.log({ ...line, level, error_code: error.code, ...causeOf(error) })
      return renderError(error, world.now())
    })
  response.headers.set('x-request-id', requestId)
  return response
}

async function run(request: Request, pathname: string, requestId: string, world: JobsWorld): ReturnType<Job> {
  const isClock = await world.isJobToken(request.headers.get('x-job-token'), pathname.replace('/jobs/', ''))
  if (!isClock && !(await world.hasSecretKey(request.headers))) {
    throw new AppError('invalid_api_key', {
      message: "Jobs need a secret key in the header apikey, or the database's token of this job in x-job-token.",
    })
  }
  const job = jobs.get(pathname)
  if (!job) throw new AppError('not_found')
  if (request.method !== 'POST') throw new AppError('method_not_allowed', { headers: { allow: 'POST' } })
  return job(world, requestId)
}
