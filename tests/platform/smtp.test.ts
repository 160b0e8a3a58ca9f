/** The mailbox's SMTP door, with real mails from nodemailer. */
import nodemailer, { type SendMailOptions } from 'nodemailer'
import { expect, test } from 'vitest'
import { parseMail } from '../../stack/platform/mailbox/parse-mail.ts'
import type { OutgoingMessage } from '../../stack/platform/mailbox.ts'
import { freePort } from '../../stack/platform/scratch.ts'
import { startSmtp } from '../../stack/platform/smtp.ts'

async function send(message: SendMailOptions, sizeLimit?: number): Promise<OutgoingMessage[]> {
  const delivered: OutgoingMessage[] = []
  const port = await freePort()
  const close = await startSmtp(port, async (mail) => delivered.push(mail), sizeLimit)
  const transport = nodemailer.createTransport({ host: '127.0.0.1', port, auth: { user: 'any', pass: 'thing' } })
  try {
    await transport.sendMail({ from: 'Palisade <noreply@palisade.local>', to: 'a@example.com', ...message })
    return delivered
  } finally {
    transport.close()
    await close()
  }
}

test('a mail larger than the limit is refused', async () => {
  await expect(send({ subject: 'x', text: 'long '.repeat(1000) }, 1000)).rejects.toThrow(/size|large/i)
})

test('a mail arrives with its subject and text whatever they are written in', async () => {
  const text = `Grüße aus Łódź\n${'a long line '.repeat(30)}\n. a dot\n=3D`

  const [mail] = await send({ subject: 'Neue Anmeldung: „Gerät“ 🔑', text, html: '<p>Grüße</p>' })

  expect(mail).toMatchObject({
    from: 'Palisade <noreply@palisade.local>',
    to: ['a@example.com'],
    subject: 'Neue Anmeldung: „Gerät“ 🔑',
    html: '<p>Grüße</p>',
  })
  expect(mail?.text?.trim()).toBe(text)
})

test('what is not MIME, or broken MIME, is shown as far as it goes', () => {
  expect(parseMail('Subject: plain\r\n\r\nText')).toEqual({ from: '', subject: 'plain', text: 'Text', html: '' })
  expect(parseMail('no header at all')).toMatchObject({ subject: '', text: '' })
  expect(parseMail('Content-Type: multipart/mixed; boundary="(["\r\n\r\n--([\r\n\r\nText\r\n--([--').text).toBe('Text')
  expect(parseMail('Content-Type: text/plain; charset=nonsense\r\n\r\nText').text).toBe('Text')
})
