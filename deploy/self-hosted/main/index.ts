/** The main service of Supabase's Edge Runtime in the place of Supabase's own: docs/self-hosted.md says why. */
import { createRouter } from './route.ts'

const folder = '/home/deno/functions'
const isFunction = /^[a-z][a-z0-9-]*$/
const names = [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) =>
  isDirectory && isFunction.test(name) ? [name] : [],
)

Deno.serve(
  createRouter({
    folder,
    names: new Set(names),
    environment: Deno.env.toObject(),
    createWorker: (options) => EdgeRuntime.userWorkers.create(options),
    log: (line) => console.log(JSON.stringify(line)),
  }),
)
