/** npm run doctor: what is wrong with a deployment, and what mends it. */
import { parseArgs } from 'node:util'
import { StackError } from '../stack/config.ts'
import { checks, diagnose, type Finding, lineOf } from './doctor/diagnose.ts'
import { readTarget, targetHelp } from './doctor/target.ts'
import { runScript } from './shared/run-script.ts'

const help = `Usage: npm run doctor [-- --project-ref REF | --db-url URL] [options]

Looks at everything that a deployment needs and prints a line for each check: ok, skip with the reason, or what is wrong, with the
statement or command that mends it. It changes nothing but for what proves a way: one request of pg_net to the function jobs, and one
signed event without effect to stripe-webhook.

${targetHelp}
  --only CHECK        that check alone; can be repeated
  --send-mail ADDRESS sends a test mail there
  --json              {target, kind, findings: [{check, state, what, mend: {kind, text} | null}]}: state is ok, wrong or skip, a mend's
                      kind sql, shell or advice
  --list              the table of all checks, as in docs/doctor.md

Exit code: 0 nothing is wrong, 1 something is, 2 it could not run.`

const options = {
  'project-ref': { type: 'string' },
  'db-url': { type: 'string' },
  'env-file': { type: 'string' },
  'send-mail': { type: 'string' },
  only: { type: 'string', multiple: true },
  json: { type: 'boolean', default: false },
  list: { type: 'boolean', default: false },
} as const

await runScript(
  help,
  async () => {
    const { values } = parseArgs({ options })
    if (values.list) {
      console.log(listOfChecks())
      return 0
    }
    const address = values['send-mail']
    if (address !== undefined && !/^[^\s@,]+@[^\s@,]+$/.test(address))
      throw new StackError('--send-mail is an address.')
    const target = await readTarget({
      ...(values['project-ref'] === undefined ? {} : { projectRef: values['project-ref'] }),
      ...(values['db-url'] === undefined ? {} : { dbUrl: values['db-url'] }),
      ...(values['env-file'] === undefined ? {} : { envFile: values['env-file'] }),
      ...(address === undefined ? {} : { sendMailTo: address }),
    })
    if (!values.json) console.log(`Looking at ${target.name}.\n`)
    const findings = await diagnose(target, {
      ...(values.only ? { only: values.only } : {}),
      ...(values.json ? {} : { onFinding: (finding: Finding) => console.log(lineOf(finding)) }),
    })
    const wrong = findings.filter(({ state }) => state === 'wrong').length
    if (values.json) console.log(JSON.stringify({ target: target.name, kind: target.kind, findings }, null, 2))
    else
      console.log(wrong === 0 ? '\nNothing is wrong.' : `\n${wrong} ${wrong === 1 ? 'thing is' : 'things are'} wrong.`)
    return wrong === 0 ? 0 : 1
  },
  2,
)

/** In Markdown, with the bars that it takes for its own escaped. */
function listOfChecks(): string {
  const cell = (text: string) => text.replaceAll('|', '\\|')
  const rows = checks.map(({ name, tells, mends }) => `| \`${name}\` | ${cell(tells)} | ${cell(mends)} |`)
  return ['| check | what it makes sure of | what mends it |', '| --- | --- | --- |', ...rows].join('\n')
}
