/** Whether mails go out: those of the functions, and those of Auth. */
import nodemailer from 'nodemailer'
import { z } from 'zod'
import { reachOf } from '../../stack/host-reach.ts'
import { byHand, type Check, judge, type Problem, type World } from './check.ts'

const timeouts = { connectionTimeout: 10_000, greetingTimeout: 10_000, socketTimeout: 20_000 }

const smtp: Check = {
  name: 'smtp',
  tells: 'The mail server takes the login in SMTP_URL; with --send-mail, a mail, too.',
  mends: 'Set SMTP_URL and MAIL_FROM, on hosted Supabase with port 465 or 2525, which are the open ones.',
  async find(world) {
    const { kind, values, sendMailTo } = world
    const { SMTP_URL, MAIL_FROM } = values
    const set = byHand(
      'Set SMTP_URL (smtps://user:password@host:465) and MAIL_FROM in .env.production and as secrets of the functions.',
    )
    if (!SMTP_URL || !MAIL_FROM)
      return {
        wrong: [
          {
            what: `${SMTP_URL ? 'MAIL_FROM' : 'SMTP_URL'} is not known here: no mail of the functions was tried`,
            mend: set,
          },
        ],
      }
    const problems: Problem[] = []
    const { hostname } = new URL(SMTP_URL)
    if (kind === 'hosted' && reachOf(hostname) !== 'public')
      problems.push({ what: `functions on hosted Supabase do not reach ${hostname}`, mend: set })
    if (kind === 'hosted' && /^(?:|25|587)$/.test(new URL(SMTP_URL).port))
      problems.push({ what: 'functions on hosted Supabase reach neither port 25 nor 587', mend: set })
    const transport = nodemailer.createTransport({ url: SMTP_URL, ...timeouts })
    try {
      await transport.verify()
      if (sendMailTo)
        await transport.sendMail({
          from: MAIL_FROM,
          to: [{ name: '', address: sendMailTo }],
          subject: 'A test of Palisade',
          text: 'npm run doctor sent this: mails of this project arrive.\n',
        })
    } catch (error) {
      problems.push({ what: `the mail server does not take it: ${describe(error)}`, mend: set })
    } finally {
      transport.close()
    }
    const sent = sendMailTo ? `a mail to ${sendMailTo} was taken` : 'the login is taken (--send-mail ADDRESS sends one)'
    return judge(problems, sent)
  },
}

const failure = z.object({
  code: z.string().optional(),
  responseCode: z.number().optional(),
  command: z.string().optional(),
})

/** Codes alone: a server's words may repeat who logs in. */
function describe(error: unknown): string {
  const { data } = failure.safeParse(error)
  return [data?.code, data?.command, data?.responseCode].filter((part) => part !== undefined).join(' ') || 'no answer'
}

const ofAuth = z.looseObject({
  smtp_host: z.string().nullish(),
  smtp_port: z.union([z.string(), z.number()]).nullish(),
  smtp_admin_email: z.string().nullish(),
})

const authMail: Check = {
  name: 'auth-mail',
  tells:
    "Auth sends its mails through a server of yours: Supabase's own sends a few an hour, to members of the project alone.",
  mends: 'Set the custom SMTP server of Auth; npm run deploy does from .env.production.',
  async find({ management, kind }: World) {
    if (!management)
      return {
        skip:
          kind === 'local' ? 'the local stack has a mailbox of its own' : 'Auth does not tell: try it with a sign-up',
      }
    const { smtp_host, smtp_admin_email } = await management.get('config/auth', ofAuth)
    const mend = byHand(
      'Set SMTP_HOST, SMTP_PORT, SMTP_USER, SMTP_PASS and SMTP_ADMIN_EMAIL of Auth: npm run deploy pushes them, or the dashboard (Authentication, Emails).',
    )
    const what = !smtp_host
      ? "Auth has no mail server but Supabase's, which is not for production"
      : reachOf(smtp_host) !== 'public' && `Auth on hosted Supabase does not reach ${smtp_host}`
    return judge(what ? [{ what, mend }] : [], `${smtp_host}, from ${smtp_admin_email}`)
  },
}

export const ofMail: Check[] = [smtp, authMail]
