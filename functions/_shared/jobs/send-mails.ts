/** Sends what waits in the outbox. Each mail is claimed first and finished after, so it goes out at least once. */
import nodemailer from 'nodemailer'
import { z } from 'zod'
import { AppError } from '../errors.ts'
import { describeFailure } from '../failure.ts'
import type { JobDatabase, Mail } from './job-database.ts'

export type MailWorld = {
  database: JobDatabase
  /** Undefined when this deployment has no mail server. */
  sendMail: ((mail: Mail) => Promise<void>) | undefined
  now(): number
  log(line: Record<string, unknown>): void
}

const batchSize = 20
const budgetMs = 45_000

export async function sendMails(world: MailWorld): Promise<{ sent: number; failed: number }> {
  const { sendMail } = world
  if (!sendMail) throw new AppError('mail_not_configured')
  const until = world.now() + budgetMs
  const result = { sent: 0, failed: 0 }
  while (world.now() < until) {
    const mails = await world.database.claimMails(batchSize)
    for (const mail of mails) {
      const error = await attempt(() => sendMail(mail))
      await world.database.finishMail(mail, error)
      result[error === null ? 'sent' : 'failed'] += 1
      if (error !== null) world.log({ level: 'warn', message: 'a mail was not sent', mail_id: mail.id, cause: error })
    }
    if (mails.length < batchSize) break
  }
  return result
}

async function attempt(send: () => Promise<void>): Promise<string | null> {
  try {
    await send()
    return null
  } catch (error) {
    return describeFailure(error)
  }
}

/**
 * The same for every attempt, so that a mail that was sent twice can be told from two mails.
 * @internal For tests: without a mail server.
 */
export const messageId = ({ id }: Mail, from: string): string =>
  `<${id}@${/@([^\s>@]+)>?\s*$/.exec(from)?.[1] ?? 'localhost'}>`

const timeouts = { connectionTimeout: 10_000, greetingTimeout: 10_000, socketTimeout: 20_000 }

/** Mail by SMTP. `url` as smtps://user:password@host:465; the hosted runtime lets no connection to ports 25 and 587 out. */
export function createMailTransport(url: string, from: string) {
  // EHLO with a name of its own: asking for the machine's needs a permission that functions do not have.
  const name = /@([^\s>@]+)>?\s*$/.exec(from)?.[1] ?? 'localhost'
  const transport = nodemailer.createTransport({ url, name, ...timeouts })
  return async (mail: Mail): Promise<void> => {
    const sent = transport.sendMail({
      from,
      // As a list of one: a comma in it cannot make it two.
      to: [{ name: '', address: mail.address }],
      subject: mail.subject,
      text: mail.body,
      messageId: messageId(mail, from),
      headers: { 'auto-submitted': 'auto-generated' },
      disableFileAccess: true,
      disableUrlAccess: true,
    })
    await sent.catch((error: unknown) => {
      throw new AppError('internal', { cause: describeSmtp(error) })
    })
  }
}

const ofSmtp = z.object({
  code: z.string().optional(),
  /** Of the socket or of TLS, where `code` only says that it was one of them. */
  originalCode: z.string().optional(),
  command: z.string().optional(),
  responseCode: z.number().optional(),
  response: z.string().optional(),
})

/**
 * Which command a server refused, and with which codes (`550 5.1.1`). Not its words, which repeat the address.
 * @internal For tests: the refusals of many mail servers without one.
 */
export function describeSmtp(error: unknown): string {
  const { data } = ofSmtp.safeParse(error)
  if (data?.code === undefined && data?.responseCode === undefined) return describeFailure(error)
  const [enhanced] = /\b[245]\.\d{1,3}\.\d{1,3}\b/.exec(data.response ?? '') ?? []
  return ['SMTP:', data.code, data.originalCode, data.command, data.responseCode, enhanced].filter(Boolean).join(' ')
}
