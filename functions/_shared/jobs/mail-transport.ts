/** Mail by SMTP. `url` as smtps://user:password@host:465; the hosted runtime lets no connection to ports 25 and 587 out. */
import nodemailer from 'nodemailer'
import { messageId } from './send-mails.ts'
import type { Mail } from './world.ts'

const timeouts = { connectionTimeout: 10_000, greetingTimeout: 10_000, socketTimeout: 20_000 }

export function createMailTransport(url: string, from: string) {
  // EHLO with a name of its own: asking for the machine's needs a permission that functions do not have.
  const name = /@([^\s>@]+)>?\s*$/.exec(from)?.[1] ?? 'localhost'
  const transport = nodemailer.createTransport({ url, name, ...timeouts })
  return async (mail: Mail): Promise<void> => {
    await transport.sendMail({
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
  }
}
