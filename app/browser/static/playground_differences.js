// Which words two texts share, in order: the longest common subsequence of words.

const MOST_WORDS = 2000;

// The text in pieces of whitespace and words; joined they are the text.
export function words(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}'\u2019]+|[^\s\p{L}\p{N}\p{M}]/gu) ?? [];
}

// For the pieces of each text whether the other has them too, in the same order.
export function shared(one, other) {
  const a = words(one).slice(0, MOST_WORDS);
  const b = words(other).slice(0, MOST_WORDS);
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const inA = a.map(() => false);
  const inB = b.map(() => false);
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      inA[i++] = true;
      inB[j++] = true;
    } else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  const rest = (text) => words(text).slice(MOST_WORDS).map((piece) => ({ text: piece, same: true })); // not compared
  return [[...a.map((text, n) => ({ text, same: inA[n] })), ...rest(one)], [...b.map((text, n) => ({ text, same: inB[n] })), ...rest(other)]];
}

// How many words at the beginning are the same.
export function sameWords(one, other) {
  const [a, b] = [words(one), words(other)].map((all) => all.filter((word) => word.trim()));
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}
