// What is listed and looked at: dialogues, trees, pairs. Each names its sets, filters, rows and details.

const keyOf = (set) => set.prefix + set.key;
const runOf = (set) => (index.runs.length > 1 ? `${index.runs[set.run].name}: ` : "");
const RIGHT = 0.999;
const grade = (score) => (score === null ? "" : score >= RIGHT ? "right" : score > 0 ? "partly" : "wrong");

function titleOfSet(set) {
  const what = set.kind === "evaluation" ? `${titleOf(set.evaluation)}, ${set.decoding}` : set.kind === "training" ? `training, iteration ${set.iteration}` : `iteration ${set.iteration}`;
  return runOf(set) + what;
}

/** The question with everybody's facts, the needed ones marked. */
async function asked(question, run) {
  const [contexts, needed] = await valueOf(index.questions.facts, question);
  const holders = index.runs[run].holders;
  const hands = holders.length ? contexts.map((facts, number) => [`${holders[number] ?? "nobody"} knows`, facts]) : [["facts", contexts.flat()]];
  const cards = hands.filter(([, facts]) => facts.length).map(([who, facts], number) => make("div", { class: `card s${number % 6}` },
    make("b", {}, who), make("ul", { class: "facts" }, facts.map((fact) => make("li", {}, needed.includes(fact) ? make("mark", {}, said(fact)) : said(fact))))));
  return [
    make("h2", {}, said(index.questions.texts[question], 2000)),
    make("p", {}, "answer: ", make("b", {}, visible(index.questions.answers[question].join(" or ").slice(0, 2000)))),
    make("details", { open: contexts.flat().join("").length < 3000 }, make("summary", { class: "dim" }, counted(contexts.flat().length, "fact")), make("div", { class: "beside" }, cards)),
  ];
}

/** One message. notes: what else is known of it; kind: further classes. */
function message([speaker, tokens, text, answer, finished, by], speakers, notes = "", kind = "") {
  const known = [tokens ? counted(tokens, "token") : "tool", by && `spoken by ${brief(by)}`, !finished && "cut", notes].filter(Boolean).join(", ");
  return make("div", { class: `card s${speaker % 6} ${kind}` },
    make("b", {}, speakers[speaker] ?? `speaker ${speaker}`), make("span", { class: "dim" }, ` ${known}`),
    answer !== null && make("span", { class: "dim" }, ", answer: ", visible(brief(answer))), said(text));
}

const worth = (reward) => (reward ? `reward ${fixed(reward[0])}: task ${fixed(reward[1])}, token share ${fixed(reward[2])}, readability ${fixed(reward[3])}` : "");
const ended = (ending) => index.endings[ending] ?? "under way";

async function talk(set, number) {
  const [turns, reward, beats] = await valueOf(set.texts, number);
  const known = [`${count(set.tokens[number])} tokens`, ended(set.endings[number]), set.formats[number] && `format ${set.formats[number]}`, set.imitated[number] ? "imitated" : ""];
  const score = set.scores[number];
  return make("section", {},
    make("h3", {}, titleOfSet(set)),
    make("p", { class: "dim" }, make("b", { class: score >= RIGHT ? "good" : "bad" }, grade(score)), ` ${known.filter(Boolean).join(", ")}`, set.kind === "training" && [make("br"), worth(reward)]), // a reward is among siblings
    beats.length > 0 && timeline(beats),
    turns.map((turn) => message(turn, set.speakers)));
}

/** Who said a step when: an agent a row, a tick a column, in each cell the number of the agent's step. */
function timeline(beats) {
  const last = Math.max(...beats.flatMap(([, ticks]) => ticks));
  const cells = (ticks, agent) => Array.from({ length: last }, (_, k) => ticks.indexOf(k + 1)).map((step) => make("td", { class: step < 0 ? "dim" : `beat ${colour(agent)}` }, step < 0 ? "·" : String(step + 1)));
  return make("div", { class: "scroll" }, make("table", { class: "timeline" },
    make("caption", { class: "dim" }, `who spoke when, in ${counted(last, "tick")}`),
    make("tbody", {}, beats.map(([who, ticks], agent) => make("tr", {}, make("th", { scope: "row" }, brief(who, 40)), cells(ticks, agent))))));
}

const besideOf = () => index.dialogues.find((set) => keyOf(set) === place.beside);
const options = (all) => all.map((name) => [name, name]);
const textOf = (turns) => turns.map((turn) => turn[2]).join("\n");

const VIEWS = {
  dialogues: {
    sets: () => index.dialogues,
    start() {
      const sampled = index.dialogues.filter((set) => set.kind === "evaluation" && set.decoding === "sampled" && set.evaluation !== "single_agent");
      const last = sampled.filter((set) => set.evaluation !== "untrained").pop() ?? index.dialogues.at(-1);
      const first = index.runs.length > 1 ? sampled.filter((set) => set.run === 0).pop() : sampled.find((set) => set.evaluation === "untrained");
      return { set: last && keyOf(last), beside: first && first !== last ? keyOf(first) : "none" };
    },
    filters: (set) => [
      ["beside", "beside", [["none", "nothing"], ...index.dialogues.filter((one) => one.kind === "evaluation").map((one) => [keyOf(one), titleOfSet(one)])]],
      ["right", "answer", [["", "any"], ...options(["right", "partly", "wrong"])]],
      ["change", "against beside", [["", "any"], ...options(["better", "same", "worse"])]],
      ["ending", "ending", [["", "any"], ...options(index.endings)]],
      set.formats.some(Boolean) && ["format", "format", [["", "any"], ...options([...new Set(set.formats.filter(Boolean))].sort())]],
      set.imitated.some(Boolean) && ["imitated", "imitated", [["", "any"], ["1", "imitated"], ["0", "not imitated"]]],
      ["order", "order", [["", "as stored"], ["most", "most tokens"], ["fewest", "fewest tokens"], ["worst", "lowest reward"]]],
    ].filter(Boolean),
    passes(set, number) {
      if (place.right && grade(set.scores[number]) !== place.right) return false;
      if (place.ending && ended(set.endings[number]) !== place.ending) return false;
      if (place.format && set.formats[number] !== place.format) return false;
      if (place.imitated && String(set.imitated[number]) !== place.imitated) return false;
      return !place.change || changed(set, number) === place.change;
    },
    order: { most: (set) => (a, b) => set.tokens[b] - set.tokens[a], fewest: (set) => (a, b) => set.tokens[a] - set.tokens[b], worst: (set) => (a, b) => set.rewards[a] - set.rewards[b] },
    searched: (value) => textOf(value[0]),
    row(set, number) {
      const known = [`${count(set.tokens[number])} tokens`, ended(set.endings[number]), set.formats[number], set.imitated[number] ? "imitated" : "", changed(set, number)];
      return [mark(set.scores[number]), known.filter(Boolean).join(" · ")];
    },
    async detail(set, number) {
      const other = besideOf(), partner = other && other !== set ? partnerOf(other, set.questions[number]) : undefined;
      const talks = await Promise.all([partner !== undefined && talk(other, partner), talk(set, number)]);
      return [await asked(set.questions[number], set.run), make("div", { class: "beside" }, talks)];
    },
  },
  trees: {
    sets: () => index.trees,
    filters: () => [["marked", "pairs", [["", "any"], ["1", "with pairs"], ["0", "without"]]], ["order", "order", [["", "as stored"], ["most", "most messages"], ["worst", "lowest reward"]]]],
    passes: (set, number) => !place.marked || String(set.marked[number]) === place.marked,
    order: { most: (set) => (a, b) => set.messages[b] - set.messages[a], worst: (set) => (a, b) => set.rewards[a] - set.rewards[b] },
    searched: ([nodes]) => textOf(nodes.map((node) => node[1]).filter(Boolean)),
    row: (set, number) => [null, `${count(set.messages[number])} messages · reward ${fixed(set.rewards[number])} · ${count(set.tokens[number])} tokens${set.marked[number] ? " · pairs" : ""}`],
    async detail(set, number) {
      const [nodes, expanded] = await valueOf(set.texts, number);
      return [await asked(set.questions[number], set.run), make("p", { class: "dim" }, worth(nodes[0][3]), `, ${counted(nodes[0][2], "visit")}; best first; green is chosen, red rejected`), branches(nodes, expanded, set.speakers)];
    },
  },
  pairs: {
    sets: () => index.pairs,
    filters: () => [["order", "order", [["", "as stored"], ["most", "largest gap"]]]],
    passes: () => true,
    order: { most: (set) => (a, b) => set.gaps[b] - set.gaps[a] },
    searched: ([prefix, chosen, rejected]) => textOf([...prefix, chosen[0], rejected[0]]),
    row: (set, number) => [null, `message ${set.depths[number] + 1} by ${set.speakers[set.said[number]] ?? "?"} · gap ${fixed(set.gaps[number])}`],
    async detail(set, number) {
      const [prefix, ...sides] = await valueOf(set.texts, number);
      const cards = sides.map(([turn, reward, visits], side) => make("section", {},
        make("h3", {}, side ? "rejected" : "chosen"), message(turn, set.speakers, counted(visits, "visit"), side ? "rejected" : "chosen"), make("p", { class: "dim" }, worth(reward))));
      const grown = index.trees.find((one) => one.run === set.run && one.iteration === set.iteration), tree = grown && partnerOf(grown, set.questions[number]);
      return [await asked(set.questions[number], set.run), tree !== undefined && make("p", {}, linkTo({ view: "trees", set: keyOf(grown), at: String(tree) }, "its tree")),
        prefix.map((turn) => message(turn, set.speakers)), make("div", { class: "beside" }, cards)];
    },
  },
};

function changed(set, number) {
  const other = besideOf();
  if (!other || other === set) return "";
  const partner = partnerOf(other, set.questions[number]);
  if (partner === undefined || set.scores[number] === null || other.scores[partner] === null) return "";
  return set.scores[number] > other.scores[partner] ? "better" : set.scores[number] < other.scores[partner] ? "worse" : "same";
}

const MARKS = { right: ["good", "✓ "], partly: ["dim", "◐ "], wrong: ["bad", "✗ "] };
function mark(score) {
  const [kind, sign] = MARKS[grade(score)] ?? ["dim", "· "];
  return make("b", { class: kind, "aria-label": grade(score) }, sign);
}

/** A tree as nested lists, the best child first; what is far down is made when it is opened. */
function branches(nodes, expanded, speakers) {
  const following = nodes.map(() => []), began = new Set(expanded);
  nodes.forEach(([parent], number) => { if (parent !== null) following[parent].push(number); });
  const value = (number) => nodes[number][3]?.[0] ?? 0;
  const below = (number) => make("ul", { class: "tree" }, following[number].sort((a, b) => value(b) - value(a)).map((child) => make("li", {}, branch(child))));
  const branch = (number) => {
    const [, turn, visits, reward, ending, marks] = nodes[number];
    const notes = [`value ${fixed(reward?.[0])}`, counted(visits, "visit"), ending >= 0 && ended(ending), began.has(number) && "expanded", ...marks];
    const card = message(turn, speakers, notes.filter(Boolean).join(", "), marks.join(" "));
    if (!following[number].length) return card;
    const open = nodes.length <= 200, fold = make("details", { open }, make("summary", {}, card));
    const grow = () => { if (fold.open && fold.children.length === 1) fold.append(below(number)); };
    fold.addEventListener("toggle", grow);
    grow();
    return fold;
  };
  return below(0);
}
