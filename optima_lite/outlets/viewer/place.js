// Where the reader is. It all stands in the address, so that a link or a reload leads back to the same place.

const DEFAULTS = { view: "overview", set: "", beside: "", ending: "", right: "", change: "", format: "", imitated: "", marked: "", text: "", order: "", at: "" };
let place = { ...DEFAULTS };

function placeOf(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

function addressOf(wanted) {
  const stated = Object.entries(wanted).filter(([name, value]) => value !== DEFAULTS[name]);
  return "#" + new URLSearchParams(stated);
}

/** Go somewhere: what is not named stays. Another view is a step that the browser's way back undoes. */
function go(changes) {
  const next = { ...place, ...changes };
  const step = next.view !== place.view || next.set !== place.set;
  place = next;
  history[step ? "pushState" : "replaceState"](null, "", addressOf(place));
  return show();
}

/** A link to another view, without the filters of this one. */
const linkTo = (wanted, ...text) => make("a", { href: addressOf({ ...DEFAULTS, ...wanted }) }, ...text);
