// The index of everything, and the blocks with the texts: in this file, or with the server that follows a run.

const LIVE = document.documentElement.hasAttribute("data-live");
const KEPT = 128; // blocks held unpacked
const unpacked = new Map(); // the oldest first
let index = null;

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function packed(name) {
  const here = document.getElementById(`block-${name}`);
  if (here) return here.textContent;
  const answer = await fetch(`blocks/${name}`);
  if (!answer.ok) throw new Error(`block ${name} is gone`);
  return answer.text();
}

function block(name) {
  const values = unpacked.get(name) ?? packed(name).then(unpack);
  unpacked.delete(name); // and to the end: it is the youngest now
  unpacked.set(name, values);
  values.catch(() => unpacked.delete(name));
  for (const oldest of unpacked.keys()) {
    if (unpacked.size <= KEPT) break;
    unpacked.delete(oldest);
  }
  return values;
}

/** Which block of a shelf holds the value of that number. */
function blockOf(shelf, number) {
  let low = 0, high = shelf.starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (shelf.starts[middle] <= number) low = middle; else high = middle - 1;
  }
  return low;
}

async function valueOf(shelf, number) {
  const which = blockOf(shelf, number);
  return (await block(shelf.names[which]))[number - shelf.starts[which]];
}

/** The numbers, in their order, whose values pass; `found` hears them as they come, a block at a time. */
async function search(shelf, numbers, passes, found, goesOn) {
  let at = 0;
  while (at < numbers.length && goesOn()) {
    const which = blockOf(shelf, numbers[at]);
    const end = shelf.starts[which + 1] ?? shelf.count;
    const values = await block(shelf.names[which]);
    const passed = [];
    for (; at < numbers.length && numbers[at] < end; at++) {
      if (passes(values[numbers[at] - shelf.starts[which]], numbers[at])) passed.push(numbers[at]);
    }
    found(passed, at / numbers.length);
  }
}

// Where the dialogues of a set are, by question: what stands beside what.
const partners = new WeakMap();
function partnerOf(set, question) {
  if (!partners.has(set)) {
    const places = new Map();
    set.questions.forEach((number, place) => { if (!places.has(index.questions.same[number])) places.set(index.questions.same[number], place); });
    partners.set(set, places);
  }
  return partners.get(set).get(index.questions.same[question]);
}
