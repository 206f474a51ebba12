"use strict";
// From probabilities to a text: the rule of components/evaluation/metrics.py.

const SMALLEST = 2 ** -126;

/** Reads the most probable text that is allowed: first `min_length` or more characters, then blanks.
 *
 *  At each position only the best character is possible, and the sum of the logarithms shows the best length, the shortest of equal ones.
 *  Returns `characters`, each with `text` and `confidence`, and the confidence of the whole text.
 */
function readingOf(probabilities, { characters, min_length: shortest, max_length: longest }) {
  const classes = probabilities.length / longest;
  const best = Array.from({ length: longest }, (_, position) => {
    const values = probabilities.subarray(position * classes, position * classes + characters.length);
    const index = values.reduce((found, value, i) => (value > values[found] ? i : found), 0);
    return { text: characters[index], confidence: values[index] };
  });
  // Without a blank class, no text is shorter.
  const blank = (position) => probabilities[position * classes + characters.length];
  let length = shortest;
  for (let position = shortest, gain = 0, most = 0; position < longest; position++) {
    gain += Math.log(Math.max(best[position].confidence, SMALLEST)) - Math.log(Math.max(blank(position), SMALLEST));
    if (gain > most) [most, length] = [gain, position + 1];
  }
  let confidence = 1;
  for (let position = 0; position < longest; position++) confidence *= position < length ? best[position].confidence : blank(position);
  return { characters: best.slice(0, length), confidence };
}
