// Numbers and times as people read them; what is not known is a dash, never a 0.

export const UNKNOWN = "–";
const known = (value) => value !== null && value !== undefined;

export const seconds = (value) => (known(value) ? `${value.toFixed(value < 10 ? 2 : 1)} s` : UNKNOWN);
export const points = (value) => (known(value) ? value.toFixed(2) : UNKNOWN);
export const percent = (value) => (known(value) ? `${(100 * value).toFixed(1)} %` : UNKNOWN);
export const count = (value) => (known(value) ? value.toLocaleString("en") : UNKNOWN);

/** Money in USD, with as many digits as it takes to see it. */
export function usd(value) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return "$0";
  return `$${value >= 1 ? value.toFixed(2) : Number(value.toPrecision(2))}`;
}

const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
export const when = (iso) => WHEN.format(new Date(iso));
