/** The mails of the Auth service: what happened, a link, and the same as a code. */
import type { AuthMail, AuthWorld } from './world.ts'

export type LinkType = 'signup' | 'invite' | 'magiclink' | 'recovery' | 'email_change'
type MailType = LinkType | 'reauthentication'

const texts: Record<MailType, { subject: string; lead: string; link: string }> = {
  signup: {
    subject: 'Confirm your e-mail address',
    lead: 'Confirm this address to finish signing up.',
    link: 'Confirm my address',
  },
  invite: { subject: 'You have been invited', lead: 'Accept the invitation to create your account.', link: 'Accept' },
  magiclink: { subject: 'Your sign-in link', lead: 'Follow this link to sign in.', link: 'Sign in' },
  recovery: {
    subject: 'Reset your password',
    lead: 'Follow this link to set a new password.',
    link: 'Reset my password',
  },
  email_change: {
    subject: 'Confirm the change of your e-mail address',
    lead: 'Confirm that the e-mail address of your account shall change.',
    link: 'Confirm the change',
  },
  reauthentication: { subject: 'Your confirmation code', lead: 'Confirm that it is you.', link: '' },
}

/** The address that a mailed link calls; it brings people back to `redirectTo`. */
export function actionLink(world: AuthWorld, link: { type: LinkType; hash: string; redirectTo: string }): string {
  const url = new URL(`${world.urls.api}/auth/v1/verify`)
  url.searchParams.set('token', link.hash)
  url.searchParams.set('type', link.type)
  url.searchParams.set('redirect_to', link.redirectTo)
  return url.href
}

const escapeHtml = (plain: string) =>
  plain.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

export function writeMail(to: string, type: MailType, otp: string, link?: string): AuthMail {
  const { subject, lead, link: label } = texts[type]
  const unasked = 'If you did not ask for this, ignore this mail.'
  const code = `Or enter the code: ${otp}`
  const only = `Your code: ${otp}`
  return {
    to,
    subject,
    text: [lead, ...(link ? [link, code] : [only]), unasked].join('\n\n'),
    html: [
      `<p>${escapeHtml(lead)}</p>`,
      ...(link
        ? [`<p><a href="${escapeHtml(link)}">${escapeHtml(label)}</a></p>`, `<p>${code}</p>`]
        : [`<p>${only}</p>`]),
      `<p>${unasked}</p>`,
    ].join('\n'),
  }
}
