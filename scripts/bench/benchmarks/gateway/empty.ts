/** The least that Deno can start and answer. */
import './end-with-parent.ts'
import process from 'node:process'

Deno.serve({ hostname: '127.0.0.1', port: Number(process.argv[2]), onListen: () => {} }, () => new Response('ok'))
