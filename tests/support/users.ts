/** Users made as people make them: sign-up, mailed link, sign-in, with plain supabase-js. */
import { createClient, type SupabaseClient } from '@supabase/supabase-js'
import OpenAI from 'openai'
import type { Database } from '../../functions/_shared/database.types.ts'
import { confirmationLink } from '../../stack/demo-user.ts'
import { target } from '../target.ts'

export type TestUser = {
  id: string
  email: string
  password: string
  accessToken: string
  sessionId: string
  client: SupabaseClient<Database>
  openai: OpenAI
}

export const password = 'Correct1Horse'

/** What registration asks for. */
export const signUpData = { first_name: 'Ada', last_name: 'Test', birth_date: '1990-12-10', accept_terms: true }

/** A client without a session: anonymous, or with the secret key. */
export const clientWith = (key: string) =>
  createClient<Database>(target().apiUrl, key, { auth: { persistSession: false, autoRefreshToken: false } })

export const newEmail = () => `user-${crypto.randomUUID()}@example.com`

/** A fresh user who signed up, followed the mailed link and signed in. */
export async function newUser(): Promise<TestUser> {
  const email = newEmail()
  const client = clientWith(target().publishableKey)
  const signUp = await client.auth.signUp({
    email,
    password,
    options: { data: signUpData },
  })
  if (signUp.error) throw signUp.error
  await fetch(await confirmationLink(target().mailUrl, email), { redirect: 'manual' })
  const signIn = await client.auth.signInWithPassword({ email, password })
  if (signIn.error) throw signIn.error
  const { session, user } = signIn.data
  const claims = JSON.parse(Buffer.from(session.access_token.split('.')[1] ?? '', 'base64url').toString())
  return {
    id: user.id,
    email,
    password,
    accessToken: session.access_token,
    sessionId: claims.session_id,
    client,
    openai: openaiFor(session.access_token),
  }
}

/** The official client, as any caller sets it up; without retries, so that one call is one request. */
export const openaiFor = (apiKey: string) =>
  new OpenAI({ apiKey, baseURL: `${target().functionsUrl}/ai/v1`, maxRetries: 0 })
