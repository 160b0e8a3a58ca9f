/** What the gateway is to reach: every figure with its definition, what it must reach at least, and what it aims at. */
export type Figure = {
  name: string
  /** What is divided by what, where and how it is measured: enough to take it again with other tools. */
  definition: string
  unit: 'ratio' | 'us' | 'kB' | 'ms'
  better: 'higher' | 'lower'
  atLeast: number
  aim: number
}

const inRounds = 'Both sides are measured in the same round; the figure is the median of the rounds.'
const added = 'Added is the time through the system minus the time of the provider asked directly in the same round.'

export const figures = {
  jsonOverPortkey: {
    name: 'JSON, 64 callers: throughput over Portkey',
    definition: `Calls a second of 64 callers in a closed loop, spread over all users, over those of Portkey's gateway. ${inRounds}`,
    unit: 'ratio',
    better: 'higher',
    atLeast: 2.5,
    aim: 3,
  },
  jsonOverTwoTrips: {
    name: 'JSON, 64 callers: throughput over two trips',
    definition: `The same over a bare handler in Deno that reserves and settles in a durable statement each, and checks nothing. ${inRounds}`,
    unit: 'ratio',
    better: 'higher',
    atLeast: 0.85,
    aim: 1,
  },
  addedAlone: {
    name: 'JSON, 1 caller: added median over Portkey',
    definition: `The added median time of a whole call of a lone caller over that of Portkey. ${added}`,
    unit: 'ratio',
    better: 'lower',
    atLeast: 1.5,
    aim: 1,
  },
  addedAmong16: {
    name: 'JSON, 16 callers: added median over Portkey',
    definition: `The added median time of a whole call of 16 callers at once over that of Portkey. ${added}`,
    unit: 'ratio',
    better: 'lower',
    atLeast: 0.45,
    aim: 0.35,
  },
  slowOverDirect: {
    name: 'JSON, provider 20 ms, 64 callers: throughput over direct',
    definition: `Calls a second of 64 callers to a provider that answers after 20 ms, over those of callers who ask it directly. ${inRounds}`,
    unit: 'ratio',
    better: 'higher',
    atLeast: 0.7,
    aim: 0.8,
  },
  hotOverSpread: {
    name: 'JSON, 64 callers: hot user over spread users',
    definition: `Calls a second when all calls are one user's, over those of calls that are spread over all users. ${inRounds}`,
    unit: 'ratio',
    better: 'higher',
    atLeast: 1,
    aim: 1.2,
  },
  streamFirstByte: {
    name: 'streams 10 ms apart, 64 callers: added first byte over pass-through',
    definition: `The added median time to the first byte of a stream's body, 64 callers that begin together, over that of a bare handler in Deno that forwards the body. ${added}`,
    unit: 'ratio',
    better: 'lower',
    atLeast: 3,
    aim: 2,
  },
  streamTotal: {
    name: 'streams 10 ms apart, 64 callers: total over direct',
    definition: `The median time to the last byte of streams of 50 events that are 10 ms apart, over that of the provider asked directly. ${inRounds}`,
    unit: 'ratio',
    better: 'lower',
    atLeast: 1.04,
    aim: 1.03,
  },
  streamCpu: {
    name: 'streams 10 ms apart, 64 callers: CPU over Portkey',
    definition: `Time on a CPU a stream of the function's process and of all of PostgreSQL together, over that of Portkey's process. ${inRounds}`,
    unit: 'ratio',
    better: 'lower',
    atLeast: 0.6,
    aim: 0.45,
  },
  streamsAtOnce: {
    name: 'streams at once, 64 callers: throughput over Portkey',
    definition: `Streams a second of 64 callers in a closed loop, whose 50 events the provider writes without a gap, over those of Portkey. ${inRounds}`,
    unit: 'ratio',
    better: 'higher',
    atLeast: 1.8,
    aim: 3,
  },
  staggeredFirstByte: {
    name: '128 streams of 20 ms gaps, staggered: added first byte, p99',
    definition:
      'Of 128 callers who begin evenly spread over the second that a stream of 50 events lasts, two streams each: the 99th percentile of the time to the first byte minus that of the provider asked directly in the same round. The figure is the median of the rounds.',
    unit: 'ms',
    better: 'lower',
    atLeast: 30,
    aim: 15,
  },
  admissionHot: {
    name: 'admission alone, one user, one call a statement, over one-row update',
    definition:
      'Admissions a second of one user, one call a statement, on 16 connections, over updates a second of one row of a table with two columns; of each side the fastest tenth of the windows.',
    unit: 'ratio',
    better: 'higher',
    atLeast: 0.65,
    aim: 0.75,
  },
  admissionSpread: {
    name: 'admission alone, spread users, one call a statement, over one-row update',
    definition:
      'The same with admissions that go round 1,000 users, over updates of one row each that are spread over a table of 100,000 rows.',
    unit: 'ratio',
    better: 'higher',
    atLeast: 0.3,
    aim: 0.45,
  },
  postgresCpuTogether: {
    name: 'CPU of PostgreSQL per call, batches of 16',
    definition:
      'Time on a CPU of all processes of the server for one statement that admits 16 calls of 16 users and one that settles them, each committed durably, on one connection, by 16; the median of the windows.',
    unit: 'us',
    better: 'lower',
    atLeast: 170,
    aim: 120,
  },
  postgresCpuAlone: {
    name: 'CPU of PostgreSQL per call, one call a statement',
    definition: 'The same with one call a statement.',
    unit: 'us',
    better: 'lower',
    atLeast: 700,
    aim: 500,
  },
  coldStart: {
    name: 'cold start of ai over an empty handler',
    definition:
      'From spawn to the first 200 of /ai/v1/models, which asks the database, over that of an empty handler in Deno; of each the fastest tenth.',
    unit: 'ratio',
    better: 'lower',
    atLeast: 2.5,
    aim: 2.2,
  },
  walPerCall: {
    name: 'WAL per call, one call a statement',
    definition:
      'Bytes of WAL inserted for one call that is admitted and settled in a statement each, in thousands, commits included; the median of windows that follow a checkpoint and a warm-up, so that full images of pages are hardly among them.',
    unit: 'kB',
    better: 'lower',
    atLeast: 1.6,
    aim: 1.2,
  },
} as const satisfies Record<string, Figure>

export type FigureId = keyof typeof figures
export type Verdict = 'aim reached' | 'met' | 'MISSED'

/** What is not a number has reached nothing. */
export function judge({ better, atLeast, aim }: Pick<Figure, 'better' | 'atLeast' | 'aim'>, value: number): Verdict {
  const reaches = (bound: number) => (better === 'higher' ? value >= bound : value <= bound)
  if (reaches(aim)) return 'aim reached'
  return reaches(atLeast) ? 'met' : 'MISSED'
}
