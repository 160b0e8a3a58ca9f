/** The demo user of the local stack: made through the public API like any other, on the first start. */
import { createClient, type Session } from '@supabase/supabase-js'
import { z } from 'zod'
import { type StackConfig, StackError } from './config.ts'
import type { StackKeys } from './keys.ts'

export const demoEmail = 'demo@example.com'

/** Signs the demo user in; when there is none yet, signs up and confirms by the mailed link first. */
export async function signInDemoUser(config: StackConfig, keys: StackKeys): Promise<Session> {
  const client = createClient(config.urls.api, keys.publishableKey, {
    auth: { persistSession: false, autoRefreshToken: false },
  })
  const credentials = { email: demoEmail, password: keys.demoPassword }
  const first = await client.auth.signInWithPassword(credentials)
  if (first.data.session) return first.data.session
  const signUp = await client.auth.signUp({ ...credentials, options: { data: signUpData } })
  if (signUp.error) throw new StackError(`The demo user could not sign up: ${signUp.error.message}`)
  await fetch(await confirmationLink(config.urls.mail, demoEmail), { redirect: 'manual' })
  const second = await client.auth.signInWithPassword(credentials)
  if (!second.data.session) throw new StackError(`The demo user could not sign in: ${second.error?.message}`)
  return second.data.session
}

const signUpData = { first_name: 'Dana', last_name: 'Demo', birth_date: '1990-04-01', accept_terms: true }

const found = z.object({ messages: z.array(z.object({ ID: z.string() })) })
const mail = z.object({ HTML: z.string(), Text: z.string() })

/** The link in the newest mail to an address. */
export async function confirmationLink(mailUrl: string, address: string): Promise<string> {
  const list = await fetch(`${mailUrl}/api/v1/search?query=${encodeURIComponent(`to:${address}`)}`)
  const newest = found.parse(await list.json()).messages[0]
  if (!newest) throw new StackError(`No mail to ${address} arrived in ${mailUrl}.`)
  const message = mail.parse(await (await fetch(`${mailUrl}/api/v1/message/${newest.ID}`)).json())
  const link =
    /https?:\/\/[^\s"'<>]*\/verify\?[^\s"'<>]*/.exec(message.HTML)?.[0] ??
    /https?:\/\/[^\s"'<>]*\/verify\?[^\s"'<>]*/.exec(message.Text)?.[0]
  if (!link) throw new StackError(`The mail to ${address} has no confirmation link.`)
  return link.replaceAll('&amp;', '&')
}
