// The choice of `best_of_n` under other weights, so that sliders act at once. app/selection.py is
// where it is made; tests/page/test_ranking.py holds the two together.

export const ATTRIBUTES = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"];
export const PUBLISHED = {
  helpfulness: 0.3,
  correctness: 0.74,
  coherence: 0.46,
  complexity: 0.47,
  verbosity: -0.33,
};

const WITHHELD = ["refusal", "content_filter"];
const magnitude = (weights) => ATTRIBUTES.reduce((sum, name) => sum + Math.abs(weights[name]), 0);

/** The scored replies that are compared, in the order in which ties go. */
function comparable(answer) {
  const order = answer.decision.tie_order;
  const place = ({ member }) => (order.includes(member) ? order.indexOf(member) : order.length);
  const replied = answer.candidates.filter((one) => one.text !== null);
  const honest = replied.filter((one) => !WITHHELD.includes(one.finish_reason));
  return (honest.length ? honest : replied)
    .filter((one) => one.scores)
    .toSorted((a, b) => place(a) - place(b) || (a.id < b.id ? -1 : 1));
}

/** Whether rewards decided, and are of five attributes, which other weights can be put on. */
export const weighable = (answer) =>
  answer.scorer.scale === "helpsteer" &&
  answer.decision.votes === null &&
  comparable(answer).length > 0;

export const rewardOf = (scores, weights) =>
  ATTRIBUTES.reduce((sum, name) => sum + weights[name] * scores[name], 0);

/**
 * The answer's candidates in a new order: `{ids, chosen, rewards, margin, tied, resolution}`, where
 * `chosen` is null under the floor, `rewards` has a number by candidate id, and `tied` are the ids
 * that are too close to call, in the order in which ties go. Only for an answer that is `weighable`.
 */
export function ranked(answer, weights) {
  const scored = comparable(answer);
  const { floor, length_control: control } = answer.decision;
  const stretch = magnitude(weights) / magnitude(PUBLISHED);
  const resolution = answer.scorer.resolution * stretch;
  const slope = control === null ? 0 : answer.scorer.length_slope * stretch;
  // Python's len counts code points.
  const lengths = new Map(scored.map((one) => [one.id, Math.log1p([...one.text].length)]));
  const mean = [...lengths.values()].reduce((sum, one) => sum + one, 0) / scored.length;
  const rewards = Object.fromEntries(
    scored.map((one) => [one.id, rewardOf(one.scores, weights)]),
  );
  const compared = (one) => rewards[one.id] - slope * (lengths.get(one.id) - mean);
  const byReward = scored.toSorted((a, b) => compared(b) - compared(a));
  const gap = (one) => compared(byReward[0]) - compared(one);
  const tied = scored.filter((one) => gap(one) < resolution || gap(one) === 0);
  const rest = byReward.filter((one) => !tied.includes(one));
  const first = tied[0].id;
  return {
    ids: [...tied, ...rest].map((one) => one.id),
    chosen: floor !== null && rewards[first] < floor ? null : first,
    rewards,
    margin: byReward.length > 1 ? gap(byReward[1]) : null,
    tied: tied.length > 1 ? tied.map((one) => one.id) : [],
    resolution,
  };
}
