// Putting it together: tabs, filters, the list of which only what is in sight is drawn, keys, and following a run.

const HEIGHT = 46; // of a row, as in the style sheet
const NAMES = ["overview", "dialogues", "trees", "pairs"];
let shown = []; // the numbers of what passes the filters
let drawn = ""; // the filter bar that stands there
let visit = 0; // counts the calls of show(): an older one that is still waiting gives up

const view = () => VIEWS[place.view];
const chosenSet = () => view().sets().find((set) => keyOf(set) === place.set);

async function show() {
  const mine = ++visit;
  const onList = place.view !== "overview";
  for (const tab of $("#tabs").children) tab.setAttribute("aria-selected", tab.value === place.view);
  $("#list").hidden = $("#bar").hidden = !onList;
  if (!onList) return $("#detail").replaceChildren(...make("div", {}, overview($("#detail").clientWidth - 32)).childNodes);
  settle();
  const set = chosenSet();
  if (!set) { shown = []; paint(); return $("#detail").replaceChildren("There is none yet."); }
  fillBar(set);
  await filter(set, () => mine === visit);
  if (mine === visit) await look(set, mine);
}

/** A place that names no set, or one that is not there, begins where most want to. */
function settle() {
  if (chosenSet()) return;
  const start = view().start?.() ?? { set: view().sets().length ? keyOf(view().sets().at(-1)) : "" };
  place = { ...place, ...start, set: start.set ?? "", beside: place.beside || start.beside || "" };
  history.replaceState(null, "", addressOf(place));
}

async function filter(set, goesOn) {
  const all = Array.from({ length: set.texts.count }, (_, number) => number).filter((number) => view().passes(set, number));
  const words = place.text.toLowerCase().split(/\s+/).filter(Boolean);
  const arranged = (numbers) => (place.order && view().order[place.order] ? numbers.toSorted(view().order[place.order](set)) : numbers);
  const tell = (numbers, note = "") => { shown = arranged(numbers); paint(); $("#status").textContent = `${count(numbers.length)} of ${count(set.texts.count)}${note}`; };
  if (!words.length) return tell(all);
  const passes = (value, number) => {
    const text = `${index.questions.texts[set.questions[number]]}\n${view().searched(value)}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const found = [];
  await search(set.texts, all, passes, (passed, share) => { if (goesOn()) { found.push(...passed); tell(found, share < 1 ? `, searching (${fixed(100 * share, 0)} %)` : ""); } }, goesOn);
  if (goesOn()) tell(found);
}

/** What stands at the place, or at the first one that is shown. */
async function look(set, mine = ++visit) {
  const position = Math.max(0, shown.indexOf(Number(place.at || NaN)));
  const number = shown[position];
  if (number === undefined) return $("#detail").replaceChildren("Nothing passes the filters.");
  const list = $("#list"), top = position * HEIGHT;
  if (top < list.scrollTop || top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 3;
  paint();
  const parts = await view().detail(set, number);
  if (mine !== visit) return;
  const same = $("#detail").dataset.of === `${place.view} ${place.set} ${number}`, scrolled = $("#detail").scrollTop;
  $("#detail").replaceChildren(...make("div", {}, parts).childNodes);
  $("#detail").dataset.of = `${place.view} ${place.set} ${number}`;
  $("#detail").scrollTop = same ? scrolled : 0;
}

function paint() {
  const list = $("#list"), set = chosenSet();
  $("#rows").style.height = `${shown.length * HEIGHT}px`;
  const current = place.at !== "" && shown.includes(Number(place.at)) ? Number(place.at) : shown[0];
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4), last = Math.min(shown.length, first + Math.ceil(list.clientHeight / HEIGHT) + 8);
  const rows = [];
  for (let position = first; position < last; position++) {
    const number = shown[position], [sign, known] = view().row(set, number);
    const row = make("div", { class: "row", role: "option", id: `row-${number}`, "aria-selected": String(number === current), "aria-posinset": position + 1, "aria-setsize": shown.length },
      make("div", { dir: "auto" }, sign, brief(index.questions.texts[set.questions[number]])), make("div", { class: "dim" }, known));
    row.style.top = `${position * HEIGHT}px`;
    row.addEventListener("click", () => move(position));
    rows.push(row);
  }
  $("#rows").replaceChildren(...rows);
  if (current !== undefined) list.setAttribute("aria-activedescendant", `row-${current}`);
}

function move(position) {
  if (!shown.length) return;
  place = { ...place, at: String(shown[Math.max(0, Math.min(shown.length - 1, position))]) };
  history.replaceState(null, "", addressOf(place));
  look(chosenSet());
}
const position = () => Math.max(0, shown.indexOf(Number(place.at || NaN)));

// --- Tabs and filters -----------------------------------------------------------------------------

function fillTabs() {
  const many = (name) => VIEWS[name].sets().reduce((sum, set) => sum + set.texts.count, 0);
  $("#tabs").replaceChildren(...NAMES.map((name) => make("button", { type: "button", role: "tab", value: name, disabled: name !== "overview" && !many(name), onclick: () => enter(name) },
    name, name !== "overview" && make("span", { class: "dim" }, ` ${count(many(name))}`))));
}

const enter = (name) => go({ ...DEFAULTS, view: name });

function fillBar(set) {
  const wanted = [["set", place.view, view().sets().map((one) => [keyOf(one), `${titleOfSet(one)} (${count(one.texts.count)})`])], ...view().filters(set)];
  const signature = JSON.stringify(wanted);
  if (signature !== drawn) {
    drawn = signature;
    const pick = ([name, title, choices]) => make("label", {}, title, make("select", { name, onchange: (event) => go({ [name]: event.target.value, ...(name === "set" ? { at: "" } : {}) }) }, choices.map(([value, text]) => make("option", { value }, text))));
    let later = 0;
    const typed = (event) => { clearTimeout(later); later = setTimeout(() => go({ text: event.target.value }), 200); };
    $("#bar").replaceChildren(make("input", { name: "text", type: "search", placeholder: "search (/)", "aria-label": "search", oninput: typed }), ...wanted.map(pick));
  }
  for (const control of $("#bar").elements) if (control !== document.activeElement || control.name !== "text") control.value = place[control.name];
}

// --- Keys -----------------------------------------------------------------------------------------

const KEYS = [["1 2 3 4", "overview, dialogues, trees, pairs"], ["j k ↓ ↑", "next, previous"], ["PgDn PgUp", "ten further, ten back"], ["Home End", "first, last"], ["/", "search"], ["Esc", "back to the list"], ["?", "these keys"]];
const STEPS = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#keys").open) return;
  if (/^(INPUT|SELECT)$/.test(event.target.tagName)) {
    if (event.key === "Escape") $("#list").focus();
    return;
  }
  if (event.key === "?") $("#keys").showModal();
  else if (NAMES[event.key - 1]) { if (!$("#tabs").children[event.key - 1].disabled) enter(NAMES[event.key - 1]); }
  else if (place.view === "overview") return;
  else if (event.key === "/") $("#bar").elements.text.focus();
  else if (event.key in STEPS) move(position() + STEPS[event.key]);
  else return;
  event.preventDefault();
}

// --- Beginning, and following a run ---------------------------------------------------------------

function take(found) {
  index = found;
  fillTabs();
  return show();
}

let tag = null;
async function follow() {
  try {
    const answer = await fetch("index", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status !== 200 && answer.status !== 304) throw new Error(await answer.text());
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      await take(await unpack(await answer.text()));
    }
    $("#status").classList.remove("wrong");
    if (place.view === "overview") $("#status").textContent = "following";
  } catch (error) {
    $("#status").classList.add("wrong");
    $("#status").textContent = error instanceof TypeError ? "the server has ended; what was read stays here" : error.message;
  }
  setTimeout(follow, 2000);
}

async function begin() {
  $("#keys").append(make("h2", {}, "Keys"), ...KEYS.map(([keys, what]) => make("p", {}, keys.split(" ").map((key) => [make("kbd", {}, key), " "]), what)), make("form", { method: "dialog" }, make("button", {}, "close")));
  $("#help").addEventListener("click", () => $("#keys").showModal());
  $("#bar").addEventListener("submit", (event) => event.preventDefault());
  $("#list").addEventListener("scroll", paint);
  addEventListener("keydown", pressed);
  addEventListener("resize", () => index && show());
  addEventListener("popstate", () => { place = placeOf(location.hash); show(); });
  place = placeOf(location.hash);
  if (!NAMES.includes(place.view)) place.view = "overview";
  if (LIVE) await follow(); else await take(await unpack($("#index").textContent));
  document.documentElement.dataset.ready = "";
}
begin();
