/** The page at the site's address: where links in mails lead after they did their work. No script, no state. */
import type { StackConfig } from './config.ts'

export function landingPage(config: StackConfig): Response {
  const html = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Palisade, local stack</title>
<style>
  :root { color-scheme: light dark }
  body { font: 16px/1.6 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem }
  h1 { font-size: 1.4rem }
</style>
<h1>Palisade runs on this machine</h1>
<p>A link in a mail from this stack leads here after it has done its work: your address is confirmed, and you can go back
to your app and sign in.</p>
<p>Mails that Auth sent: <a href="${config.urls.mail}">${config.urls.mail}</a></p>
</html>`
  const headers = {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    'referrer-policy': 'no-referrer',
  }
  return new Response(html, { headers })
}
