/** npm run deploy: brings this commit to a project, hosted or self-hosted, step by step, and as often as you like. */
import { createInterface } from 'node:readline/promises'
import { parseArgs } from 'node:util'
import { StackError } from '../stack/config.ts'
import { readSource } from './deploy/preflight.ts'
import { type Concealer, concealer, type Production, readProduction } from './deploy/production-env.ts'
import {
  configurationStep,
  functionsStep,
  gatewayStep,
  hostedLogin,
  jobsStep,
  type Look,
  linkStep,
  migrationsStep,
  pushToHosted,
  pushToUrl,
  type Query,
  recordStep,
  type Source,
  type Step,
  secretsStep,
  sha256,
} from './deploy/steps.ts'
import { catalogueStep, endpointStep } from './deploy/stripe.ts'
import type { Target as Patient } from './doctor/check.ts'
import { diagnose, lineOf } from './doctor/diagnose.ts'
import { readTarget } from './doctor/target.ts'
import { connectDatabase, withPassword } from './shared/connect-database.ts'
import { explainError } from './shared/explain-error.ts'
import { connectManagementApi, readAccessToken, refuseWrongRef } from './shared/management-api.ts'
import { productionFile } from './shared/production-file.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run deploy -- --project-ref REF [--dry-run] [--yes] [--allow-dirty] [--env-file FILE]
       npm run deploy -- --db-url postgresql://postgres@HOST:5432/postgres [...]      (self-hosted)

Brings this commit to a project: links it, pushes migrations, sets the functions' secrets, gives the AI gateway its database login,
uploads the functions, tells jobs where they are, pushes the configuration with the values of .env.production, makes Stripe's
endpoint and prices when there is a key, notes the commit, and lets the doctor look at the whole. Every step looks at the project first: you are shown what would
change and asked once, and what is in place is left alone. After a failure run the same command again: it goes on from there.

--project-ref REF   a project of hosted Supabase: the 20 letters in its dashboard's address
--db-url URL        a self-hosted project's database, as role postgres and without the password (SUPABASE_DB_PASSWORD in the file)
--dry-run           show every step and what would change, and change nothing
--yes               do not ask; for CI
--allow-dirty       deploy files that differ from the commit, too
--no-doctor         do not look at the project in the end
--env-file FILE     another file than .env.production

Values and secrets: .env.production (see .env.production.example), which only you may read and Git may not have.
Login: SUPABASE_ACCESS_TOKEN, there or in the environment, or SUPABASE_NO_KEYRING=1 npx supabase login.
Exit code: 0 everything is in place, 1 a step failed or the doctor found something, 2 it could not start or you said no.`

/** A step that failed, as opposed to a deployment that could not start. */
class StepFailure extends StackError {}

type Target = {
  name: string
  steps: Step[]
  /** What nothing here can do. */
  byHand: string[]
  /** For the doctor; undefined when there is no way to the database but the CLI's. */
  patient: (() => Promise<Patient>) | undefined
  doctorCommand: string
  end(): Promise<void>
}

await runScript(
  help,
  async () => {
    const { values } = parseArgs({
      options: {
        'project-ref': { type: 'string' },
        'db-url': { type: 'string' },
        'dry-run': { type: 'boolean', default: false },
        yes: { type: 'boolean', default: false },
        'allow-dirty': { type: 'boolean', default: false },
        'no-doctor': { type: 'boolean', default: false },
        'env-file': { type: 'string', default: productionFile },
      },
    })
    const { 'project-ref': ref, 'db-url': dbUrl, 'dry-run': dryRun } = values
    if ((ref === undefined) === (dbUrl === undefined))
      throw new StackError('Either --project-ref or --db-url. See --help.')
    const envFile = values['env-file']
    const production = await readProduction(envFile)
    const secrets = concealer(production)
    try {
      const source = await readSource({ allowDirty: values['allow-dirty'] })
      const target =
        ref !== undefined
          ? await hosted(ref, { envFile, production, source }, secrets)
          : selfHosted(dbUrl ?? '', { envFile, production, source })
      try {
        return await deploy(target, source, { dryRun, yes: values.yes, doctor: !values['no-doctor'] }, (line) =>
          console.log(secrets.hide(line)),
        )
      } finally {
        await target.end()
      }
    } catch (error) {
      const message = secrets.hide(explainError(error))
      if (!(error instanceof StepFailure)) throw new StackError(message)
      console.error(`palisade: ${message}`)
      return 1
    }
  },
  2,
)

type Say = (line: string) => void

async function deploy(
  target: Target,
  source: Source,
  how: { dryRun: boolean; yes: boolean; doctor: boolean },
  say: Say,
): Promise<number> {
  const commit = `${source.commit.slice(0, 12)}${source.isDirty ? ' and uncommitted changes' : ''}`
  say(`Palisade ${source.version} (${commit}) to ${target.name}\n`)
  const open: { step: Step; state: Look['state'] }[] = []
  for (const step of target.steps) {
    const { state, says, shows } = await step.look()
    say(line(state === 'done' ? 'in place' : how.dryRun ? 'would' : 'to do', step.name, says))
    if (shows) say(`\n${shows.replace(/^/gm, '    ')}\n`)
    if (state !== 'done') open.push({ step, state })
  }
  const tellByHand = () => {
    for (const task of target.byHand) say(`by hand   ${task}`)
  }
  if (how.dryRun) {
    tellByHand()
    say(`\nA dry run: nothing was changed${open.length === 0 ? ', and nothing would be' : ''}.`)
    return 0
  }
  if (open.length > 0) {
    if (!how.yes && !(await isAgreed())) throw new StackError('Nothing was changed.')
    say('')
    for (const { step, state } of open) await run(step, state, say)
  }
  tellByHand()
  say(open.length === 0 ? '\nEverything is in place: nothing was changed.' : '\nDeployed.')
  return how.doctor ? await callDoctor(target, say) : 0
}

/** The last word is the doctor's: that everything was done does not mean that everything works. */
async function callDoctor({ patient, doctorCommand }: Target, say: Say): Promise<number> {
  if (!patient) {
    say(
      `The doctor cannot ask the database: set SUPABASE_DB_PASSWORD or DB_URL in .env.production, and run ${doctorCommand}.`,
    )
    return 0
  }
  say('\nThe doctor looks at it.\n')
  const findings = await patient()
    .then((target) => diagnose(target, { onFinding: (finding) => say(lineOf(finding)) }))
    .catch((error: unknown) => {
      throw new StepFailure(`Everything was done, but the doctor could not look at it: ${explainError(error)}`)
    })
  const wrong = findings.filter(({ state }) => state === 'wrong').length
  say(wrong === 0 ? '\nNothing is wrong.' : `\nThings that are wrong: ${wrong}. When they are mended: ${doctorCommand}`)
  return wrong === 0 ? 0 : 1
}

/** What could not look before looks now: nothing may be left to do. */
async function run(step: Step, state: Look['state'], say: Say): Promise<void> {
  try {
    if (state !== 'later' || (await step.look()).state !== 'done') {
      say(line('...', step.name, ''))
      await step.act()
    }
    say(line('done', step.name, ''))
  } catch (error) {
    throw new StepFailure(
      `The step "${step.name}" failed: ${explainError(error)}\nRun the same command again when it is mended: it goes on from here.`,
    )
  }
}

function line(mark: string, name: string, says: string): string {
  return `${mark.padEnd(10)}${name.padEnd(17)}${says}`.trimEnd()
}

async function isAgreed(): Promise<boolean> {
  if (!process.stdin.isTTY)
    throw new StackError(
      'Nobody can be asked here. Nothing was changed: look at the above, and run it again with --yes.',
    )
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  try {
    return /^y(?:es)?$/i.test(await terminal.question('\nDo this? [y/N] '))
  } finally {
    terminal.close()
  }
}

type Given = { envFile: string; production: Production; source: Source }

async function hosted(ref: string, { envFile, production, source }: Given, secrets: Concealer): Promise<Target> {
  refuseWrongRef(ref)
  if (!production.SITE_URL) throw new StackError('.env.production has no SITE_URL: mails would lead people nowhere.')
  const token = secrets.add(production.SUPABASE_ACCESS_TOKEN ?? (await readAccessToken(process.env)))
  // The CLI has the same login.
  process.env.SUPABASE_ACCESS_TOKEN = token
  const api = connectManagementApi(ref, token, process.env.SUPABASE_API_URL)
  const { name, region, status, functionsUrl } = await api.project()
  if (status !== 'ACTIVE_HEALTHY') throw new StackError(`The project is ${status}: it must be ACTIVE_HEALTHY first.`)
  const secretKey = async () => {
    const { secret } = await api.apiKeys()
    if (!secret?.startsWith('sb_secret_'))
      throw new StackError('The project has no secret key (sb_secret_...). Make one in Settings, API Keys.')
    return secrets.add(secret)
  }
  const query: Query = api.query
  const account = stripeAccount(production)
  const endpoint = {
    has: async () => (await api.secretDigests()).has('STRIPE_WEBHOOK_SECRETS'),
    keep: async (secret: string) => api.setSecrets(new Map([['STRIPE_WEBHOOK_SECRETS', secrets.add(secret)]])),
  }
  return {
    name: `${name} (${ref}, ${region})`,
    steps: [
      linkStep(ref),
      migrationsStep(query, () => pushToHosted(ref, production, query)),
      secretsStep(api, production),
      gatewayStep(query, hostedLogin(api, production, secrets)),
      functionsStep(api, query, ref, source),
      jobsStep(query, functionsUrl, secretKey),
      configurationStep(ref, production),
      ...(account ? [catalogueStep(query, account)] : []),
      ...(account && !production.STRIPE_WEBHOOK_SECRETS
        ? [endpointStep(`${functionsUrl}/stripe-webhook`, account, endpoint)]
        : []),
      recordStep(query, source),
    ],
    byHand: [],
    patient:
      production.DB_URL || production.SUPABASE_DB_PASSWORD
        ? () =>
            readTarget(
              { projectRef: ref, envFile },
              { SUPABASE_URL: new URL(functionsUrl).origin, ...process.env, SUPABASE_ACCESS_TOKEN: token },
            )
        : undefined,
    doctorCommand: `npm run doctor -- --project-ref ${ref}`,
    end: async () => {},
  }
}

/** A database is all that can be reached of a self-hosted project from here: its services read files on their server. */
function selfHosted(given: string, { envFile, production, source }: Given): Target {
  const { SUPABASE_DB_PASSWORD } = production
  const url = withPassword(given, SUPABASE_DB_PASSWORD)
  if (!SUPABASE_DB_PASSWORD) throw new StackError('.env.production has no SUPABASE_DB_PASSWORD, which --db-url needs.')
  const { SUPABASE_URL, SUPABASE_SECRET_KEY, AI_DB_URL, STRIPE_WEBHOOK_SECRETS } = production
  if (!SUPABASE_URL || !SUPABASE_SECRET_KEY || !AI_DB_URL)
    throw new StackError(
      '.env.production needs SUPABASE_URL, SUPABASE_SECRET_KEY and AI_DB_URL for a self-hosted project.',
    )
  const sql = connectDatabase(url.toString(), { max: 1, ca: production.functionSecrets.get('DB_CA_CERT') })
  const query: Query = async (text, parameters = []) => sql.unsafe(text, parameters)
  const account = stripeAccount(production)
  const functionsUrl = `${SUPABASE_URL.replace(/\/+$/, '')}/functions/v1`
  const login = { url: async () => AI_DB_URL, current: async () => sha256(AI_DB_URL), keep: async () => {} }
  return {
    name: `the database at ${url.host}`,
    steps: [
      migrationsStep(query, () => pushToUrl(url.toString())),
      gatewayStep(query, login),
      jobsStep(query, functionsUrl, async () => SUPABASE_SECRET_KEY),
      ...(account ? [catalogueStep(query, account)] : []),
      recordStep(query, source),
    ],
    byHand: [
      'copy functions/ and the files of ccxt that its deno.json names to the server, and restart the functions',
      "give the functions' container what .env.production has for them, AI_DB_URL too, and restart it",
      'set what supabase/config.toml says about Auth and the API as variables of those containers',
      ...(account && !STRIPE_WEBHOOK_SECRETS
        ? [
            `make Stripe's endpoint for ${functionsUrl}/stripe-webhook (docs/billing.md) and keep its secret in STRIPE_WEBHOOK_SECRETS`,
          ]
        : []),
    ],
    patient: () => readTarget({ envFile }, { ...process.env, DB_URL: url.toString() }),
    doctorCommand: `npm run doctor -- --db-url ${given}`,
    end: () => sql.end(),
  }
}

function stripeAccount({ STRIPE_SECRET_KEY }: Production) {
  return STRIPE_SECRET_KEY
    ? { secretKey: STRIPE_SECRET_KEY, apiUrl: process.env.STRIPE_API_URL || undefined }
    : undefined
}
