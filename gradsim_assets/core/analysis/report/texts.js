"use strict";
// Texts beside each other: which words differ, and texts that go to the clipboard.
const Texts = (() => {
  // Above this many comparisons of words (two texts of 2,000) a page would stand still.
  const MOST = 4e6;

  // Where no spaces part words, signs are compared one by one.
  const words = (text) =>
    text.match(/\s+|(?:(?![\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}])[\p{L}\p{M}\p{N}])+|./gsu) ?? [];
  const isSpace = (word) => /^\s/.test(word);

  // Lengths of the longest common subsequences of all ends of two lists, row by row.
  const lengths = (a, b) => {
    const width = b.length + 1, table = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1
          : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      }
    }
    return { table, width };
  };

  // Of two lists of words the places that one longest common subsequence leaves out, of each.
  const apart = (a, b) => {
    let start = 0, endA = a.length, endB = b.length;
    while (start < endA && start < endB && a[start] === b[start]) start++;
    while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
    const middleA = a.slice(start, endA), middleB = b.slice(start, endB);
    if (middleA.length * middleB.length > MOST) return null;
    const { table, width } = lengths(middleA, middleB), left = [new Set(), new Set()];
    let i = 0, j = 0;
    while (i < middleA.length || j < middleB.length) {
      if (i < middleA.length && j < middleB.length && middleA[i] === middleB[j]) { i++; j++; }
      else if (j >= middleB.length || (i < middleA.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) left[0].add(start + i++);
      else left[1].add(start + j++);
    }
    return left;
  };

  // [[text, differs], ...] for each of two texts; null where they are too long. Words are compared, white space is not.
  const differences = (first, second) => {
    const all = [words(first), words(second)];
    const found = apart(...all.map((list) => list.filter((word) => !isSpace(word))));
    if (found === null) return null;
    return all.map((list, side) => {
      const parts = [];
      let place = 0, last = false;
      list.forEach((word, n) => {
        // White space between two words that differ belongs to them.
        const differs = isSpace(word) ? last && n + 1 < list.length && found[side].has(place) : found[side].has(place++);
        if (parts.length && differs === last) parts.at(-1)[0] += word;
        else parts.push([word, differs]);
        last = differs;
      });
      return parts;
    });
  };

  const leaves = (root) => {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) found.push(walker.currentNode);
    return found;
  };

  // Marks (as `kind`) what words of a text the other one lacks, in whatever elements they stand; `side` is 0 for the first of the
  // two. A formula is marked as a whole. Nothing is marked where texts are too long to compare.
  const mark = (root, other, side, kind) => {
    const own = leaves(root), texts = [own, leaves(other)].map((nodes) => nodes.map((node) => node.data).join(""));
    const parts = differences(...(side ? texts.reverse() : texts))?.[side];
    let part = 0, used = 0;
    for (const node of parts ? own : []) {
      const pieces = [];
      for (let at = 0; at < node.data.length;) {
        const [text, differs] = parts[part], taken = node.data.slice(at, at + text.length - used);
        // White space between the cells of a table, or between blocks, holds no element.
        pieces.push([taken, differs && !(isSpace(taken) && !taken.trim())]);
        at += taken.length;
        used += taken.length;
        if (used === text.length) { part++; used = 0; }
      }
      if (!pieces.some(([, differs]) => differs)) continue;
      const formula = node.parentElement?.closest("math");
      if (formula) formula.classList.add(kind);
      else node.replaceWith(...pieces.map(([text, differs]) => (differs ? Object.assign(document.createElement(kind), { textContent: text }) : text)));
    }
  };

  // A page that was opened as a file may not use the clipboard everywhere; an old way still works there.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  // A button that copies what `text()` gives, and says so for a moment.
  const button = (label, text, title) => {
    const node = Object.assign(document.createElement("button"), { type: "button", className: "small", textContent: label, title });
    node.addEventListener("click", async (event) => {
      event.stopPropagation();
      await copy(text());
      node.textContent = "copied";
      setTimeout(() => { node.textContent = label; }, 1200);
    });
    return node;
  };

  return { differences, mark, button };
})();
