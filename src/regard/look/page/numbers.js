// Mathematics by its short names.

export const { abs, ceil, exp, floor, log, max, min, round } = Math;
