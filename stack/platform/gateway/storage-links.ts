/** Signed addresses as the Storage service answers them: relative to itself, under the names that supabase-js reads. */
import { z } from 'zod'
import type { Fetch } from './storage-order.ts'

const link = z.looseObject({ signedUrl: z.string() })
const signedLink = z.looseObject({ signedURL: z.string() })
const many = z.object({ expiresIn: z.number(), paths: z.array(z.string()).max(1000) })

export function realLinks(fetch: Fetch): Fetch {
  const signed: Fetch = async (request, claims) => {
    const answer = await fetch(request, claims)
    const [, kind] = /^\/storage\/v1\/object\/(sign|upload\/sign)\//.exec(new URL(request.url).pathname) ?? []
    if (request.method !== 'POST' || !kind || !answer.ok) return answer
    const { signedUrl, ...rest } = link.parse(await answer.json())
    const address = signedUrl.replace(/^\/storage\/v1/, '')
    return Response.json({ ...rest, [kind === 'sign' ? 'signedURL' : 'url']: address }, { status: answer.status })
  }
  return async (request, claims) => {
    const isMany =
      request.method === 'POST' && /^\/storage\/v1\/object\/sign\/[^/]+$/.test(new URL(request.url).pathname)
    if (!isMany) return signed(request, claims)
    const asked = many.safeParse(await request.json())
    if (!asked.success)
      return Response.json({ statusCode: '400', error: 'Error', message: 'Bad Request' }, { status: 400 })
    // lite takes this address for that of one file without a name.
    const { paths, expiresIn } = asked.data
    const sign = async (path: string) => {
      const url = `${request.url}/${path.split('/').map(encodeURIComponent).join('/')}`
      const init = {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ expiresIn }),
      }
      const answer = await signed(new Request(url, init), claims)
      const error = 'Either the object does not exist or you do not have access to it'
      return answer.ok
        ? { error: null, path, ...signedLink.parse(await answer.json()) }
        : { error, path, signedURL: null }
    }
    return Response.json(await Promise.all(paths.map(sign)))
  }
}
