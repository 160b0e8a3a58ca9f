/** Sends what waits in the outbox. Each mail is claimed first and finished after, so it goes out at least once. */
import { AppError } from '../errors.ts'
import type { JobsWorld, Mail } from './world.ts'

const batchSize = 20
const budgetMs = 45_000

export async function sendMails(world: JobsWorld): Promise<{ sent: number; failed: number }> {
  const { sendMail } = world
  if (!sendMail) throw new AppError('mail_not_configured')
  const until = world.now() + budgetMs
  const result = { sent: 0, failed: 0 }
  while (world.now() < until) {
    const mails = await world.claimMails(batchSize)
    for (const mail of mails) {
      const error = await attempt(() => sendMail(mail))
      await world.finishMail(mail, error)
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
    return error instanceof Error ? error.message : String(error)
  }
}

/** The same for every attempt, so that a mail that was sent twice can be told from two mails. */
export const messageId = ({ id }: Mail, from: string): string =>
  `<${id}@${/@([^\s>@]+)>?\s*$/.exec(from)?.[1] ?? 'localhost'}>`
