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

const rewardOf = (scores, weights) =>
  ATTRIBUTES.reduce((sum, name) => sum + weights[name] * scores[name], 0);

/** The ranking as the service made it, in the shape of `ranked`. */
export function original({ candidates, decision, scorer }) {
  const scored = candidates.filter((one) => one.text !== null && one.reward !== null);
  const stretch = scorer.scale === "helpsteer" ? magnitude(decision.weights) / magnitude(PUBLISHED) : 1;
  const slope = decision.length_control === null ? 0 : scorer.length_slope * stretch;
  const all = candidates.filter((one) => one.rank !== null).toSorted((a, b) => a.rank - b.rank);
  return {
    ids: all.map((one) => one.id),
    chosen: decision.winner,
    rewards: Object.fromEntries(scored.map((one) => [one.id, one.reward])),
    compared: controlled(scored, (one) => one.reward, slope),
    margin: decision.margin,
    resolution: decision.resolution,
  };
}

/** Rewards by id without what length alone earns, as they are compared: their gaps count. */
function controlled(scored, reward, slope) {
  // Python's len counts code points.
  const length = (one) => Math.log1p([...one.text].length);
  return Object.fromEntries(scored.map((one) => [one.id, reward(one) - slope * length(one)]));
}

/**
 * The answer's candidates in a new order: `{ids, chosen, rewards, compared, margin, tied,
 * resolution}`, where `chosen` is null under the floor, `rewards` and `compared` (with length
 * control) have a number by candidate id, and `tied` are the ids that are too close to call, in the
 * order in which ties go. Only for an answer that is `weighable`.
 */
export function ranked(answer, weights) {
  const scored = comparable(answer);
  const { floor, length_control: control } = answer.decision;
  const stretch = magnitude(weights) / magnitude(PUBLISHED);
  const resolution = answer.scorer.resolution * stretch;
  const slope = control === null ? 0 : answer.scorer.length_slope * stretch;
  const rewards = Object.fromEntries(
    scored.map((one) => [one.id, rewardOf(one.scores, weights)]),
  );
  const compared = controlled(scored, (one) => rewards[one.id], slope);
  const byReward = scored.toSorted((a, b) => compared[b.id] - compared[a.id]);
  const gap = (one) => compared[byReward[0].id] - compared[one.id];
  const tied = scored.filter((one) => gap(one) < resolution || gap(one) === 0);
  const rest = byReward.filter((one) => !tied.includes(one));
  const first = tied[0].id;
  return {
    ids: [...tied, ...rest].map((one) => one.id),
    chosen: floor !== null && rewards[first] < floor ? null : first,
    rewards,
    compared,
    margin: byReward.length > 1 ? gap(byReward[1]) : null,
    tied: tied.length > 1 ? tied.map((one) => one.id) : [],
    resolution,
  };
}
