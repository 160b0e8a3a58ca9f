/** The gateway of `@musistudio/llms` in Node, which its package leaves to be started: no log, one provider, answers passed through. */
import './end-with-parent.ts'
import { createRequire } from 'node:module'

const [, , port, providerUrl] = process.argv

type Settings = { logger: boolean; initialConfig: object }
/** Not an import: types are checked where the packages of scripts/bench are not installed, and these have none. */
const require = createRequire(import.meta.url)
const { default: Server }: { default: new (settings: Settings) => { start(): Promise<void> } } =
  require('@musistudio/llms')

const provider = {
  name: 'bench',
  api_base_url: `${providerUrl}/chat/completions`,
  api_key: 'none',
  models: [],
  transformer: { use: ['OpenAI'] },
}
await new Server({
  logger: false,
  initialConfig: { PORT: port, HOST: '127.0.0.1', providers: [provider] },
}).start()
