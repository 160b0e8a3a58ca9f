/** The guards of `npm run check` that need nothing but code can fail: clean, offend, caught, mend, clean. */
import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { wrongCodeIn } from '../../scripts/checks/docs/code.ts'
import { brokenLinksIn, missingInReadme } from '../../scripts/checks/docs/links.ts'
import { type Known, unknownNamesIn } from '../../scripts/checks/docs/names.ts'
import { readPage, unknownLanguagesIn } from '../../scripts/checks/docs/pages.ts'
import { findUnlockedPackages, unlockedIn } from '../../scripts/checks/function-packages.ts'
import { circlesIn } from '../../scripts/checks/import-circles.ts'
import { namesOfOursIn, unreadIn, violationsIn } from '../../scripts/checks/imports.ts'
import { newer, newerIn } from '../../scripts/checks/newer-postgres.ts'
import { importsOf } from '../../scripts/checks/read-imports.ts'
import { secretsIn } from '../../scripts/checks/secrets.ts'
import { root } from '../../stack/config.ts'
import { newerSql } from '../support/newer-sql.ts'

describe('packages of functions', () => {
  const clean = () => ({
    denoJson: { imports: { '@a/b/': 'npm:/@a/b@1.0.0/', ccxt: '../node_modules/ccxt/x.js' } },
    denoLock: {
      specifiers: { 'npm:@a/b@1.0.0': '1.0.0' } as Record<string, string>,
      npm: {
        '@a/b@1.0.0': { integrity: 'sha512-b', dependencies: ['c'] },
        'c@2.0.0': { integrity: 'sha512-c' },
      } as Record<string, { integrity: string; dependencies?: string[] }>,
    },
    packageLock: {
      packages: {
        '': {},
        'node_modules/@a/b': { version: '1.0.0', integrity: 'sha512-b' },
        'node_modules/x/node_modules/c': { version: '2.0.0', integrity: 'sha512-c' },
      },
    },
  })
  type Files = ReturnType<typeof clean>

  test('are locked as they are tested', async () => {
    expect(unlockedIn(clean())).toEqual([])
    expect(await findUnlockedPackages()).toEqual([])
  })

  test.each<[string, (files: Files) => unknown, string]>([
    [
      'one that is not locked',
      ({ denoLock }) => delete denoLock.specifiers['npm:@a/b@1.0.0'],
      'does not lock @a/b@1.0.0',
    ],
    [
      'one that another needs and nobody locked',
      ({ denoLock }) => delete denoLock.npm['c@2.0.0'],
      '@a/b@1.0.0 needs c',
    ],
    ['other bytes', ({ denoLock }) => (denoLock.npm['c@2.0.0'] = { integrity: 'sha512-x' }), 'another integrity'],
    ['what nobody needs', ({ denoLock }) => (denoLock.npm['d@1.0.0'] = { integrity: 'sha512-d' }), 'nothing needs'],
    [
      'another version than is tested',
      ({ packageLock }) => (packageLock.packages['node_modules/@a/b'].version = '1.0.1'),
      'not in package-lock.json',
    ],
  ])('with %s are reported', (_what, change, said) => {
    const files = clean()
    change(files)

    expect(unlockedIn(files)).toEqual([expect.stringContaining(said)])
  })
})

describe('imports', () => {
  test('an endpoint that imports another, and a domain that imports an endpoint', () => {
    expect(violationsIn('functions/ai/index.ts', "import { x } from '../billing/index.ts'")).toHaveLength(1)
    expect(violationsIn('functions/_shared/ai/x.ts', "import { x } from '../credentials/open.ts'")).toHaveLength(1)
    expect(violationsIn('stack/x.ts', "import { x } from '../tests/y.ts'")).toHaveLength(1)
    expect(
      violationsIn('functions/_shared/ai/x.ts', "import { AppError } from '../errors.ts'\nimport { y } from './y.ts'"),
    ).toEqual([])
  })

  test.each([
    ['the platform that imports the stack', 'stack/platform/gateway.ts', '../config.ts', false],
    ['and from a folder of it, a type', 'stack/platform/auth/settings.ts', '../../keys.ts', false],
    ['the platform that imports a double', 'stack/platform/gateway.ts', '../doubles/stripe.ts', false],
    ['the platform that imports a function', 'stack/platform/jobs.ts', '../../functions/_shared/db.ts', false],
    ['a double that imports the platform', 'stack/doubles/stripe/events.ts', '../../platform/jobs.ts', false],
    ['a double that imports the stack', 'stack/doubles/stripe.ts', '../config.ts', false],
    ['a double that imports another', 'stack/doubles/stripe/events.ts', '../exchanges/state.ts', false],
    ['the same by its first file', 'stack/doubles/stripe.ts', './exchanges.ts', false],
    ['the platform that imports itself', 'stack/platform/auth/service.ts', '../gateway/callers.ts', true],
    ['a double that imports itself', 'stack/doubles/stripe.ts', './stripe/state.ts', true],
    ['the stack that starts the platform', 'stack/stack.ts', './platform/gateway.ts', true],
    ['the stack that starts a double', 'stack/stack.ts', './doubles/stripe.ts', true],
  ])('the direction of stack/: %s', (_what, file, imported, isAllowed) => {
    expect(violationsIn(file, `import type { x } from '${imported}'`)).toHaveLength(isAllowed ? 0 : 1)
    expect(violationsIn(file, `export { x } from '${imported}'`)).toHaveLength(isAllowed ? 0 : 1)
  })

  const target = '../../functions/_shared/env.ts'
  test.each([
    ['a template', `await import(\`${target}\`)`],
    ['a template with a value', `await import(\`../../functions/\${name}.ts\`)`],
    ['a comment between', `import { x } from /* why */ '${target}'`],
    ['double quotes', `import { x } from "${target}"`],
    ['only its effect', `import '${target}'`],
    ['a type by itself', `type X = import('${target}').X`],
    ['require', `import x = require('${target}')`],
    ['require by another name', `const load = createRequire(import.meta.url)\nload('${target}')`],
    ['require of a folder', `createRequire(import.meta.url)('..')`],
    ['a URL', `await import(new URL('${target}', import.meta.url).href)`],
    ['a URL without dots before', `new URL('x/../${target}', import.meta.url)`],
    ['a resolver', `import.meta.resolve('${target}')`],
    ['a query', `await import('${target}?again')`],
    ['its own folder', `await import(\`\${import.meta.dirname}/${target}\`)`],
    ['parts', `await import('../../' + 'functions/_shared/env.ts')`],
    ['an absolute path', `import { x } from '${join(root, 'functions/_shared/env.ts')}'`],
    ['an absolute path in a variable', `const path = '${join(root, 'functions/_shared/env.ts')}'`],
    ['an absolute path of another machine', "import { x } from '/home/one/env.ts'"],
    ['a file URL', `import { x } from '${pathToFileURL(join(root, 'functions/_shared/env.ts')).href}'`],
  ])('an import is seen that is written with %s', (_how, text) => {
    expect(violationsIn('stack/platform/x.ts', text)).toHaveLength(1)
    expect(violationsIn('stack/platform/x.ts', text.replaceAll(/^/gm, '// '))).toEqual([])
  })

  test.each([
    ["join(root, 'functions')", 'functions'],
    ["join(root, 'supabase', 'config.toml')", 'supabase'],
    ["readFile('supabase/migrations')", 'supabase/'],
    [`readFile(\`\${root}/policies/20_plans.sql\`)`, '/policies/'],
    [`sql\`select private.find_account(\${id})\``, 'private.find_account'],
    [`sql.unsafe('update "public"."plans" set name = 1')`, 'public"."plans'],
  ])('the platform and the doubles name neither folders nor tables of ours: %s', (text, name) => {
    for (const file of ['stack/platform/jobs.ts', 'stack/doubles/stripe.ts']) {
      expect(namesOfOursIn(file, text)).toEqual([expect.stringContaining(name)])
    }
    expect(namesOfOursIn('stack/stack.ts', text)).toEqual([])
    expect(namesOfOursIn('stack/platform/jobs.ts', `// ${text}`)).toEqual([])
    expect(
      namesOfOursIn('stack/platform/jobs.ts', "fetch('/functions/v1/jobs')\ntype Has = Pick<World, 'sql'>"),
    ).toEqual([])
  })

  test('code that is no .ts is refused where .ts is read', () => {
    const files = ['stack/a.mts', 'functions/ai/b.js', 'scripts/c.cts', 'tests/d.mjs', 'tests/e.tsx', 'functions/f.jsx']

    expect(unreadIn(files)).toHaveLength(files.length)
    expect(unreadIn(['stack/a.ts', 'functions/deno.json', 'docs/a.js', 'stack/platform/a.sql'])).toEqual([])
  })

  test('the platform names neither Palisade nor its commands; who made a stand-in extension may say so', () => {
    const platform = join(root, 'stack', 'platform')
    const files = readdirSync(platform, { recursive: true, encoding: 'utf8' })
    const read = files.filter((file) => /^(?!extensions).*\.(?:ts|sql)$/.test(file))

    expect(read.length).toBeGreaterThan(30)
    expect(read.filter((file) => /palisade|npm run/i.test(readFileSync(join(platform, file), 'utf8')))).toEqual([])
  })

  test('a circle, also one of types, is told once, by its shortest way', () => {
    const files = {
      'stack/a.ts': "import { b } from './b.ts'",
      'stack/b.ts': "import type { C } from './c.ts'\nimport { d } from './d.ts'",
      'stack/c.ts': "export { d } from './d.ts'\nconst a = await import(`./a.ts`)",
      'stack/d.ts': "import { other } from 'other'",
    }
    const importsWith = (changed: Partial<typeof files>) =>
      new Map(Object.entries({ ...files, ...changed }).map(([file, text]) => [file, importsOf(file, text)]))

    expect(circlesIn(importsWith({}))).toEqual(['stack/a.ts -> stack/b.ts -> stack/c.ts -> stack/a.ts'])
    expect(circlesIn(importsWith({ 'stack/c.ts': "export { d } from './d.ts'" }))).toEqual([])
  })
})

test('a key in a file is found, and the finding does not repeat it', () => {
  const key = `sb_secret_${'x'.repeat(30)}`

  const found = secretsIn('notes.md', `one\nkey: ${key}\n`)

  expect(found).toEqual(['notes.md:2 looks like a Supabase key'])
  expect(secretsIn('notes.md', 'sb_secret_... is not a key')).toEqual([])
})

describe('what nobody uses', { timeout: 180_000 }, () => {
  let project: string
  beforeEach(async () => {
    project = await mkdtemp(join(tmpdir(), 'palisade-unused-'))
    await cp(join(root, 'knip.jsonc'), join(project, 'knip.jsonc'))
    await write('functions/ai/index.ts', "import { used } from '../_shared/ai.ts'\nused()\n")
  })
  afterEach(() => rm(project, { recursive: true, force: true }))

  const write = async (file: string, text: string) => {
    await mkdir(dirname(join(project, file)), { recursive: true })
    await writeFile(join(project, file), text)
  }
  const knip = (...more: string[]) => {
    const args = ['--no-progress', '--no-config-hints', '--treat-tag-hints-as-errors', ...more]
    return promisify(execFile)(join(root, 'node_modules', '.bin', 'knip'), args, { cwd: project }).then(
      () => '',
      ({ stdout, stderr }: { stdout: string; stderr: string }) => stdout + stderr,
    )
  }

  test('a file, an export, a type and a package', async () => {
    await write('package.json', '{ "name": "example", "type": "module" }')
    await write('functions/_shared/ai.ts', 'export const used = () => {}\n')
    expect(await knip()).toBe('')

    await write('package.json', '{ "name": "example", "type": "module", "dependencies": { "left-over": "1.0.0" } }')
    await write(
      'functions/_shared/ai.ts',
      'export const used = () => {}\nexport const lone = 1\nexport type Lone = 1\n',
    )
    await write('functions/_shared/lost.ts', 'export const lost = 1\n')

    expect(await knip()).toMatch(/lost\.ts[\s\S]*left-over[\s\S]*lone[\s\S]*Lone/)
  })

  test('an export of a command, and one that only a test uses and that does not say so; nor may one say so that others use', async () => {
    const scripts = { go: 'node scripts/go.ts', test: 'vitest run' }
    const devDependencies = { vitest: '5.1.1' }
    await write('package.json', JSON.stringify({ name: 'example', type: 'module', scripts, devDependencies }))
    await write('tests/ai.test.ts', "import { tested } from '../functions/_shared/ai.ts'\ntested()\n")
    await write('scripts/go.ts', 'export const idle = 1\nconsole.log(idle)\n')
    const [used, tested] = ['export const used = () => {}\n', 'export const tested = () => used()\n']

    await write('functions/_shared/ai.ts', used + tested)
    expect(await knip('--exports')).toMatch(/^Unused exports \(1\)\nidle/)
    expect(await knip('--exports', '--production')).toMatch(/^Unused exports \(2\)\ntested.*\nidle/)

    await write('scripts/go.ts', '')
    await write('functions/_shared/ai.ts', `${used}/** @internal For tests. */\n${tested}`)
    expect([await knip('--exports'), await knip('--exports', '--production')]).toEqual(['', ''])

    await write('functions/_shared/ai.ts', `/** @internal For tests. */\n${used}/** @internal For tests. */\n${tested}`)
    expect(await knip('--exports', '--production')).toMatch(/Tag hints \(1\)[\s\S]*used.*@internal/)
  })
})

test('a file at the top of scripts/ is a command, and every command is one of these or has a package', async () => {
  const { scripts } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
  const called = Object.values<string>(scripts).flatMap((script) => /^node (scripts\/\S+)/.exec(script)?.[1] ?? [])
  const files = (await readdir(join(root, 'scripts'))).filter((name) => name.endsWith('.ts'))

  expect(called.toSorted()).toEqual([...files.map((name) => `scripts/${name}`), 'scripts/bench/bench.ts'].toSorted())
})

describe('pages', () => {
  const known: Known = {
    catalogue: {
      schemas: new Set(['public', 'private', 'auth']),
      relations: new Map([
        ['private.accounts', new Set(['user_id', 'balance'])],
        ['public.plans', new Set(['id'])],
      ]),
      functions: new Map([['public.grant_credits', [['user_id', 'amount']]]]),
      settings: new Set(['billing.grace_days']),
    },
    files: ['README.md', 'docs/errors.md', 'sql/20_plans.sql', 'functions/ai/index.ts'],
    config: ['auth.sessions.timebox'],
    commands: new Set(['check', 'test']),
    variables: new Set(['API_URL']),
    code: "code: 'past_due', settings: 'request.jwt.claims', files: 'keys.json'",
  }
  const namesIn = (text: string) => unknownNamesIn([readPage('docs/page.md', text)], known)

  test.each([
    ['a table', '`private.accounts` and private.accounts.balance', '`private.credit_accounts`'],
    ['a table in prose', 'a row in private.accounts', 'a row in private.credit_accounts'],
    ['a table in a drawing', '```\nprivate.accounts -> 200\n```', '```\nprivate.gone -> 200\n```'],
    ['a column', '`accounts.balance`', '`accounts.total`'],
    ['a column with its schema', '`private.accounts.user_id`', '`private.accounts.owner`'],
    ['a function', '`grant_credits(...)`', '`give_credits(...)`'],
    ['an argument', '`grant_credits(user_id, amount)`', '`grant_credits(user, amount)`'],
    ['a named argument', '`grant_credits(user_id => .., amount => ..)`', '`grant_credits(user_id => .., sum => ..)`'],
    [
      'a named argument in prose',
      'public.grant_credits(amount => f(sum => 1))',
      'grant_credits(sum => f(amount => 1))',
    ],
    [
      'a named argument in a block',
      '```sql\ndo $$ begin perform grant_credits(amount => 1); end $$\n```',
      '```sql\ndo $$ begin perform grant_credits(sum := 1); end $$\n```',
    ],
    ['a function that is called', "`rpc('grant_credits', {...})`", "`rpc('give_credits')`"],
    ['a table that is read', "`supabase.from('plans').select()`", "`supabase.from('plane').select()`"],
    ['a setting', '`billing.grace_days`', '`billing.grace_weeks`'],
    ['a key of config.toml', '`sessions.timebox`', '`auth.sessions.time`'],
    ['a word of the code', '`past_due` `request.jwt.claims`', '`over_due`'],
    ['a variable', '`API_URL`', '`API_ADDRESS`'],
    ['a variable in a shell', '```sh\nTOKEN=$(x)\ncurl $API_URL $TOKEN\n```', '```sh\ncurl $API_ADDRESS\n```'],
    ['a command', '`npm run check`, `npm test`', '`npm run czech`'],
    [
      'a database to push to',
      '```sh\nnpx supabase db push --remote\nnpx supabase db push --dry-run --remote=x\n```',
      '```sh\nnpx supabase db push\n```',
    ],
    ['a file', '`sql/20_plans.sql`, sql/*.sql, docs/errors.md', '`sql/21_plans.sql`'],
    ['a folder', '`functions/ai/` and `ai/`', '`functions/aid/`'],
    ['a file without its folder', '`errors.md`, `keys.json`', '`mistakes.md`'],
    [
      'a function that is invoked',
      "```js\nsupabase.functions.invoke('ai/v1')\n```",
      "```js\nsupabase.functions.invoke('aid')\n```",
    ],
  ])('name %s that is not there', (_name, right, wrong) => {
    expect(namesIn(right)).toEqual([])

    expect(namesIn(`one\n\n${wrong}`)).toEqual([expect.stringMatching(/^docs\/page\.md:[34] /)])
  })

  test('link to a page, a heading or a folder that is not there', () => {
    const errors = readPage('docs/errors.md', '# Errors\n\n## not_found\n\n## Who `may` sign up?\n\n## not_found\n')
    const linksIn = (text: string) => brokenLinksIn([readPage('README.md', text), errors], known.files)

    expect(
      linksIn(
        `[a](docs/errors.md) [b](docs/errors.md#who-may-sign-up) [c](docs/errors.md#not_found-1) [d](sql) [e](sql/) [f](#top)
        [g](https://example.com)
# Top`,
      ),
    ).toEqual([])
    expect(linksIn('[a](docs/mistakes.md)')).toEqual(['README.md:1 links to docs/mistakes.md, which is not there'])
    expect(linksIn('\n[a](docs/errors.md#lost)')).toEqual([
      'README.md:2 links to docs/errors.md#lost, but docs/errors.md has no such heading',
    ])
    expect(linksIn('[a](#lost)')).toHaveLength(1)
    expect(linksIn('[a](sql/21_plans.sql)')).toHaveLength(1)
  })

  test.each([
    ['a reference', '[a][there]\n\n[there]: docs/errors.md', '[a][gone]\n\n[gone]: docs/gone.md'],
    ['a reference to nothing', '`[a][nothing]`', '[a][nothing]'],
    ['HTML', '<a class="x" href="docs/errors.md">a</a>', "<a href='docs/gone.md'>a</a>"],
    ['an image', '![a](sql/20_plans.sql)', '![a](sql/20_plans.png)'],
    ['an image in HTML', '<img src=sql/20_plans.sql>', '<p align="center">\n<img alt="x" src="gone.png">\n</p>'],
    ['a title', '[a](docs/errors.md "Errors")', "[a](docs/gone.md 'Errors')"],
    ['a space', '[a](<docs/my errors.md>) [a](docs/my%20errors.md)', '[a](<docs/my gone.md>)'],
    ['a space that ends it', '[a](docs/my%20errors.md)', '[a](docs/my errors.md)'],
    ['parentheses', '[a](docs/errors_(old).md) [a](docs/errors_\\(old\\).md)', '[a](docs/gone_(old).md)'],
    ['a slash', '[a](/docs/errors.md)', '[a](/errors.md)'],
    ['brackets in it', '[a [b]](docs/errors.md)', '[a [b]](docs/gone.md)'],
    ['lines of a file', '[a](sql/20_plans.sql#L12) [a](sql/20_plans.sql#L12-L20)', '[a](sql/20_plans.sql#lost)'],
    ['lines of a folder', '[a](sql)', '[a](sql#L12)'],
    ['a name of HTML', '[a](#here)\n\n<a id="here"></a>', '[a](#there)\n\n<a id="here"></a>'],
    ['a heading by a line below it', '[a](#top)\n\nTop\n===', '[a](#top)\n\n    # Top'],
    ['a block with more words', '```sh x="[b](gone.md)"\n[b](gone.md)\n```\n[a](sql)', '```sh x\n```\n[a](gone.md)'],
  ])('link with %s to what is not there', (_how, right, wrong) => {
    const files = [...known.files, 'docs/my errors.md', 'docs/errors_(old).md']

    expect(brokenLinksIn([readPage('README.md', right)], files)).toEqual([])
    expect(brokenLinksIn([readPage('README.md', wrong)], files)).toHaveLength(1)
  })

  test.each([
    ['words behind the language', '```ts title="x"\none\n```\n`two`', 'ts', 2],
    ['another fence', '~~~ts\none\n~~~\n`two`', 'ts', 2],
    ['a longer fence', '````ts\none\n````\n`two`', 'ts', 2],
    ['a quote around it', '> words\n> ```ts\n> one\n> ```\n\n`two`', 'ts', 3],
    ['a list around it', '- a\n  1. b\n\n     ```ts\n     one\n     ```\n\n`two`', 'ts', 5],
    ['no fence', 'words\n\n    one\n\n`two`', '', 3],
  ])('a block of code is read with %s', (_how, text, language, line) => {
    const { blocks, spans } = readPage('docs/page.md', text)

    expect(blocks).toEqual([{ language, text: 'one\n', line }])
    expect(spans).toEqual([{ text: 'two', line: text.split('\n').length }])
  })

  test('write a block in a language that no check reads, or by another of its names', () => {
    const blockIn = (language: string) => unknownLanguagesIn([readPage('docs/page.md', `\`\`\`${language}\n\`\`\`\n`)])

    for (const language of ['', 'ts', 'js', 'sql', 'sh', 'json title=x']) expect(blockIn(language)).toEqual([])
    for (const language of ['TypeScript', 'tsx', 'SQL', 'postgresql', 'bash', 'mjs', '{ts}']) {
      expect(blockIn(language)).toEqual([expect.stringMatching(/^docs\/page\.md:2 is in /)])
    }
  })

  test('a page, a folder or a command that README does not lead to', () => {
    const whole = '[s](sql) [f](functions/) [d](docs): [errors](docs/errors.md); `npm run check`, `npm test`'
    const missingWithout = (part: string) =>
      missingInReadme([readPage('README.md', whole.replace(part, ''))], known.files, known.commands)

    expect(missingWithout('')).toEqual([])
    expect(missingWithout('[errors](docs/errors.md)')).toEqual(['README.md does not lead to docs/errors.md'])
    expect(missingWithout('[s](sql)')).toEqual(['README.md does not lead to sql'])
    expect(missingWithout('`npm run check`')).toEqual(['README.md does not tell of npm run check'])
  })

  test('examples that the compiler refuses, by the lines of the page', { timeout: 180_000 }, async () => {
    const example = (call: string) =>
      readPage(
        'docs/page.md',
        `# Page\n\n- a list\n\n  \`\`\`ts\n  const { data } = await ${call}\n  show(data)\n  \`\`\`\n`,
      )

    const found = await wrongCodeIn([
      example("supabase.rpc('get_my_credits')"),
      example("supabase.rpc('get_my_debts')"),
      example("supabase.from('ai_calls').select('*').nonsense()"),
      example(
        "supabase.from('plans').select('id, plan_prices(id), of:name').eq('id', 'free').order('name').match({ id: 'x' })",
      ),
      example("supabase.from('ai_calls').select('id, lost').limit(1)"),
      example("supabase.from('plans').select('id, plan_prices(misplaced)').single()"),
      example("supabase.from('plans').select('*').order('disorder')"),
      example("supabase.from('plans').select().match({ mismatch: 'x' })"),
      example("supabase.rpc('get_my_limits').select('unlimited')"),
      example("supabase.storage.from('documents').list('folder')"),
      example("fetch('https://example.com') as any // @ts-nocheck"),
    ])

    const messages = ['silences', 'get_my_debts', 'nonsense', 'lost', 'misplaced', 'disorder', 'mismatch', 'unlimited']
    expect(found).toEqual(messages.map((word) => expect.stringMatching(new RegExp(`^docs/page\\.md:6 .*${word}`))))
  })
})

describe('SQL that PostgreSQL 15 lacks', () => {
  const exampleOf = (what: string) => newerSql[what] ?? `select ${what}`

  test.each(newer)('$what is found, by its line and version, in SQL, a function and an endpoint', ({ what, since }) => {
    const statement = exampleOf(what)
    const finding = (place: string) =>
      expect.stringContaining(`${place} ${what}: since ${/^\d/.test(since) ? 'PostgreSQL ' : ''}${since}`)

    expect(newerIn('sql/00_x.sql', `-- one\n${statement};\n`)).toContainEqual(finding('sql/00_x.sql:2'))
    expect(newerIn('sql/00_x.sql', `do $$ begin\n  ${statement};\nend $$;`)).toContainEqual(finding('sql/00_x.sql:2'))
    expect(newerIn('functions/x.ts', `const a =\n  sql\`${statement}\``)).toContainEqual(finding('functions/x.ts:2'))
  })

  test.each(newer)('$what is not found in a comment and outside of queries', ({ what }) => {
    expect(newerIn('sql/00_x.sql', `-- ${exampleOf(what)}\nselect 1; /* ${exampleOf(what)} */`)).toEqual([])
    expect(newerIn('functions/x.ts', `const text = "${exampleOf(what)}"`)).toEqual([])
  })

  test.each([
    'select random(), random( )',
    "select json_object('{a, 1}'), '1'::json, json_build_object('a', 1)",
    "update storage.objects set name = 'main' where name = 'storage'",
    "select 'it is not JSON.', a_1, v2_3, $1, 10.5, '2026_01' from generate_series(1, 3) a_1",
    "select generate_series(now(), coalesce(now(), now()), interval '1 day')",
    'alter table private.settings alter column value set storage main',
    'merge into a using b on a.id = b.id when not matched then do nothing; update a set id = 1 where false returning id',
    "select private.schedule_job('x', '15 seconds', 'select 1'), cron.schedule('x', '* * * * *', 'select 1')",
    "grant select on a to b; select 'maintained'",
  ])('what 15 has, too, is not found: %s', (statement) => {
    expect(newerIn('sql/00_x.sql', statement)).toEqual([])
  })
})
