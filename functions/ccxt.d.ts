/** One exchange of ccxt, imported by its file. What it can do is reached through `connect.ts` alone. */
declare module 'ccxt/*' {
  const exchange: unknown
  export default exchange
}
