// The result on one screen.

const titleOf = (evaluation) => evaluation.replaceAll("_", " ");
const lastOf = (rows) => rows.filter((row) => row.name.startsWith("iteration_")).pop();

function overview(width) {
  const wide = Math.min(620, width), several = index.runs.length > 1;
  const heads = index.runs.map((run, number) => [several && make("h2", {}, make("span", { class: `key ${colour(number)}` }), run.name), headline(run)]);
  return [
    ...heads,
    make("div", { class: "panels" }, [
      panel("Score against tokens", evaluationChart(wide)),
      panel("Side by side", index.compared.length > 0 && comparison()),
      index.runs.map((run, number) => panels(run, number, several ? `: ${run.name}` : "", wide)),
    ]),
    index.runs.map((run) => make("details", {}, make("summary", {}, `settings: ${run.recipe}, seed ${run.seed}`), table(["setting", "value"], run.settings.map(([key, value]) => [key, brief(value, 400)])))),
  ];
}

const panel = (title, ...parts) => parts.flat().some(Boolean) && make("section", {}, make("h2", {}, title), parts);

function headline(run) {
  const sampled = run.evaluations.filter((row) => row.decoding === "sampled");
  const rows = [sampled.find((row) => row.name === "untrained"), lastOf(sampled), sampled.find((row) => row.name === "single_agent")];
  const cards = rows.filter(Boolean).map((row) => make("div", { class: "card" },
    make("div", { class: "dim" }, `${titleOf(row.name)}, ${row.questions} questions`),
    make("div", {}, make("b", {}, fixed(row.score, 3)), make("span", { class: "dim" }, ` score${interval(row.score_low, row.score_high, 2)}`)),
    make("div", {}, make("b", {}, fixed(row.tokens, 1)), make("span", { class: "dim" }, ` tokens${interval(row.tokens_low, row.tokens_high, 1)}`))));
  if (!cards.length) return make("p", {}, "Nothing has been evaluated yet.");
  const gains = run.gains.map((gain) => make("li", {}, `${titleOf(gain.after)} against ${titleOf(gain.before)}, ${gain.decoding}: score ${signed(gain.score, 3)}${gain.interval ? ` [${signed(gain.interval[0])}, ${signed(gain.interval[1])}]` : ""}, tokens ${gain.tokens === null ? "-" : signed(100 * gain.tokens, 0) + " %"}`));
  return [make("div", { class: "numbers" }, cards), make("ul", { class: "dim" }, gains)];
}

function evaluationChart(width) {
  const points = [], paths = [];
  index.runs.forEach((run, number) => {
    const ofRun = run.evaluations.map((row) => ({
      run: number, x: row.tokens, y: row.score, hollow: row.decoding === "greedy", row,
      xs: row.tokens_low === null ? null : [Math.max(0, row.tokens_low), row.tokens_high], ys: [row.score_low, row.score_high],
      label: row.name.replace(/^iteration_/, "").replace("_", " "),
      title: `${run.name}: ${titleOf(row.name)}, ${row.decoding}: score ${fixed(row.score, 3)}, ${fixed(row.tokens, 1)} tokens`,
    }));
    points.push(...ofRun);
    for (const decoding of ["sampled", "greedy"]) {
      const path = ofRun.filter((point) => point.row.decoding === decoding && point.row.name !== "single_agent");
      if (path.length > 1) paths.push(path);
    }
  });
  const note = "Full points are sampled, hollow ones greedy; the lines through a point are its 95 % intervals; numbers are iterations.";
  return points.length ? [scatter(points, paths, width), make("p", { class: "dim" }, note)] : null;
}

function comparison() {
  const change = (line, name, decimals) => (line[`${name}_change`] === null ? "-" : signed(line[`${name}_change`], decimals) + interval(line[`${name}_change_low`], line[`${name}_change_high`], decimals));
  const rows = index.compared.map((line) => [line.run, `${titleOf(line.evaluation)} ${line.decoding}`, fixed(line.score, 3), fixed(line.tokens, 1), change(line, "score", 3), change(line, "tokens", 1), line.shared === null ? "-" : count(line.shared)]);
  return table(["run", "evaluation", "score", "tokens", "score against the first", "tokens against the first", "shared questions"], rows);
}

function panels(run, number, name, width) {
  const rows = run.evaluations.map((row) => [
    `${titleOf(row.name)}, ${row.decoding}${row.remark ? ` (${row.remark})` : ""}`, fixed(row.score, 3) + interval(row.score_low, row.score_high, 2),
    fixed(row.tokens, 1) + interval(row.tokens_low, row.tokens_high, 1), fixed(row.turns, 1), row.turns > 1 ? `${fixed(100 * row.agreement, 0)} %` : "-", fixed(row.tokens_per_correct, 1), fixed(row.readability_loss, 2)]);
  return [
    panel(`Reward of the training dialogues${name}`, run.rewards.length > 0 && lines(["reward", "iteration"], rewardLines(run), width)),
    panel(`Evaluations${name}`, rows.length > 0 && table(["evaluation", "score", "tokens", "turns", "agreement", "tokens per correct", "readability loss"], rows)),
    panel(`How dialogues end${name}`, endings(number)),
    ...run.steps.map((step) => panel(`Training by ${step.kind}${name}`, table(["iteration", ...step.iterations.map(String)], step.lines.map(([what, cells]) => [what, ...cells])))),
    panel(`Remarks${name}`, run.remarks.length > 0 && make("ul", { class: "dim" }, run.remarks.map((line) => make("li", {}, visible(line))))),
  ];
}

const PARTS = [["total", "reward"], ["task", "task"], ["token_share", "token share"], ["readability", "readability"]];
const rewardLines = (run) => PARTS.map(([part, name]) => ({ name, points: run.rewards.map((reward) => [reward.iteration, reward[part]]) }));

function endings(run) {
  const sets = index.dialogues.filter((set) => set.run === run && set.speakers.length > 1 && set.endings.length);
  if (!sets.length) return null;
  const seen = index.endings.map((_, ending) => ending).filter((ending) => sets.some((set) => set.endings.includes(ending)));
  const rows = sets.map((set) => {
    const share = seen.map((ending) => set.endings.filter((one) => one === ending).length / set.endings.length);
    return [linkTo({ view: "dialogues", set: keyOf(set) }, titleOfSet(set)), shares(share), ...share.map((one) => `${fixed(100 * one, 0)} %`)];
  });
  const heads = seen.map((ending, number) => [make("span", { class: `key ${colour(number)}` }), index.endings[ending]]);
  return table(["dialogues", "", ...heads], rows);
}

function table(heads, rows) {
  const cell = (value, column) => make("td", { class: column === 0 ? "indent" : null }, value);
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell))))));
}
