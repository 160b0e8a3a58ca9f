/** How often a property is tried: so often in `npm test`, and five times as often in `npm run test:long`. */
export const runs = (times: number): number => times * Number(process.env.PROPERTY_TIMES ?? 1)
