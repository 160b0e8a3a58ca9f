/** A connection that breaks is its own affair. */
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { expect, test } from 'vitest'
import { freePort } from '../../stack/platform/scratch.ts'
import { serve } from '../../stack/serve.ts'

test('a client that breaks off while it is about to get a WebSocket ends nothing', async () => {
  const port = await freePort()
  const waiting: Duplex[] = []
  const close = await serve(
    'test',
    port,
    () => new Response('here'),
    (_request, socket) => void waiting.push(socket),
  )
  const client = connect(port, '127.0.0.1')
  client.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n')
  await expect.poll(() => waiting.length).toBe(1)

  // Without anybody who listens, the error that this makes would end the process.
  client.resetAndDestroy()

  await expect.poll(() => waiting[0]?.destroyed).toBe(true)
  expect(await (await fetch(`http://127.0.0.1:${port}/`)).text()).toBe('here')
  await close()
})
