/** The Edge Function `jobs`: what needs more than SQL, called by pg_cron through pg_net with a token, or with a secret key. */
import { hasSecretKey } from '../_shared/auth/identify-caller.ts'
import { isJobToken } from '../_shared/auth/job-token.ts'
import { createBillingJobs } from '../_shared/billing/billing-jobs.ts'
import { connectDatabase } from '../_shared/db.ts'
import { readEnv, variables } from '../_shared/env.ts'
import { connectExchange } from '../_shared/exchanges/connect.ts'
import { createArchive } from '../_shared/jobs/archive-audit.ts'
import { handleJobsRequest, type JobsWorld } from '../_shared/jobs/handle-jobs-request.ts'
import { createJobDatabase } from '../_shared/jobs/job-database.ts'
import { createMailTransport } from '../_shared/jobs/send-mails.ts'
import { createPortfolioDatabase } from '../_shared/portfolio/portfolio-database.ts'
import { countOutcomes, type PortfolioWorld, runSyncs } from '../_shared/portfolio/run-syncs.ts'
import { checkUploads, createUploadFiles, type UploadWorld } from '../_shared/storage/check-uploads.ts'
import { createUploadDatabase } from '../_shared/storage/upload-database.ts'

const { SUPABASE_URL, SUPABASE_DB_URL, DB_CA_CERT, SUPABASE_SECRET_KEYS } = variables
const { SMTP_URL, MAIL_FROM, STRIPE_SECRET_KEY, STRIPE_API_URL } = variables
const env = readEnv(
  {
    SUPABASE_URL,
    SUPABASE_DB_URL,
    DB_CA_CERT,
    SUPABASE_SECRET_KEYS,
    SMTP_URL: SMTP_URL.optional(),
    MAIL_FROM: MAIL_FROM.optional(),
    STRIPE_SECRET_KEY: STRIPE_SECRET_KEY.optional(),
    STRIPE_API_URL: STRIPE_API_URL.optional(),
    EXCHANGES_GAP_MS: variables.EXCHANGES_GAP_MS.optional(),
  },
  (name) => Deno.env.get(name),
)
// A month of the audit log takes longer to verify than a caller of the API may wait.
const sql = connectDatabase(env.SUPABASE_DB_URL, { statementTimeoutMs: 120_000, ca: env.DB_CA_CERT })

const secretKey = Object.values(env.SUPABASE_SECRET_KEYS)[0] ?? ''
const log = (line: Record<string, unknown>) => console.log(JSON.stringify(line))
const uploads: UploadWorld = {
  database: createUploadDatabase(sql),
  files: createUploadFiles({ apiUrl: env.SUPABASE_URL, secretKey, fetch }),
  log,
}

const portfolios: PortfolioWorld = {
  database: createPortfolioDatabase(sql),
  connect: (access) => connectExchange(access, { fetch, now: Date.now, gapMs: env.EXCHANGES_GAP_MS }),
  now: Date.now,
  log,
}

const world: JobsWorld = {
  hasSecretKey: (headers) => hasSecretKey(headers, env.SUPABASE_SECRET_KEYS),
  isJobToken: (token, job) => isJobToken(token, job, env.SUPABASE_SECRET_KEYS, Date.now()),
  database: createJobDatabase(sql),
  archive: createArchive(env.SUPABASE_URL, secretKey),
  checkUploads: () => checkUploads(uploads),
  syncPortfolios: async (requestId) => countOutcomes(await runSyncs({ asker: null, requestId }, portfolios)),
  sendMail: env.SMTP_URL && env.MAIL_FROM ? createMailTransport(env.SMTP_URL, env.MAIL_FROM) : undefined,
  billing: env.STRIPE_SECRET_KEY
    ? createBillingJobs({ sql, secretKey: env.STRIPE_SECRET_KEY, apiUrl: env.STRIPE_API_URL, now: Date.now, log })
    : undefined,
  now: Date.now,
  newId: () => crypto.randomUUID(),
  log,
}

/** @public Called by the name of its folder. */
export default { fetch: (request: Request) => handleJobsRequest(request, world) }
