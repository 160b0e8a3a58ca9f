/** The mailbox's SMTP door, on loopback: what functions (and a real Auth service) send by SMTP lands in the same mailbox. */
import { SMTPServer } from 'smtp-server'
import { parseMail } from './mailbox/parse-mail.ts'
import type { OutgoingMessage } from './mailbox.ts'

/** Rejects with EADDRINUSE when the port is taken. */
export async function startSmtp(
  port: number,
  deliver: (message: OutgoingMessage) => Promise<unknown>,
  sizeLimit = 5 * 1024 * 1024,
): Promise<() => Promise<void>> {
  const server = new SMTPServer({
    name: 'mailbox.localhost',
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    allowInsecureAuth: true,
    // Whatever name and password a service is set up with: nothing leaves this machine.
    onAuth: (auth, _session, done) => done(null, { user: auth.username }),
    size: sizeLimit,
    disableReverseLookup: true,
    closeTimeout: 1_000,
    logger: false,
    async onData(stream, session, done) {
      try {
        const chunks: Buffer[] = []
        for await (const chunk of stream) chunks.push(Buffer.from(chunk))
        if (stream.sizeExceeded) return done(Object.assign(new Error('The mail is too large'), { responseCode: 552 }))
        const { from, subject, text, html } = parseMail(Buffer.concat(chunks).toString('latin1'))
        const sender = from || (session.envelope.mailFrom ? session.envelope.mailFrom.address : '')
        await deliver({ from: sender, to: session.envelope.rcptTo.map(({ address }) => address), subject, text, html })
        done()
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)))
      }
    },
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve())
  })
  // A client that hangs up in the middle must not end the stack.
  server.on('error', () => {})
  return () => new Promise((resolve) => server.close(() => resolve()))
}
