"use strict";
// Elements and texts. Whatever a model said becomes a text node, so nothing of it is ever markup.

const $ = (selector) => document.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
const make = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
const draw = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

// What cannot be seen, or turns the order of letters: controls, directions, half characters. Joiners stay: letters need them.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const LONG = 20000; // characters of a message that are shown at first

const escaped = (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0");

/** A text as nodes, with what cannot be seen written out. */
function visible(text) {
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(UNSEEN)) {
    nodes.push(text.slice(from, found.index), make("span", { class: "unseen" }, escaped(found[0])));
    from = found.index + found[0].length;
  }
  return [...nodes, text.slice(from)];
}

/** A whole message; a very long one shows its beginning, and the rest when asked. */
function said(text, long = LONG) {
  const body = make("div", { class: "said", dir: "auto" }, visible(text.slice(0, long)));
  if (text.length <= long) return body;
  const more = make("button", { type: "button" }, `show all ${count(text.length)} characters`);
  more.addEventListener("click", () => { body.replaceChildren(...visible(text)); more.remove(); });
  return [body, more];
}

/** The beginning of a text on one line, for lists and titles. */
const brief = (text, length = 200) => text.slice(0, length).replace(UNSEEN, escaped).replace(/\s+/g, " ");

const count = (number) => number.toLocaleString("en");
const counted = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;
const fixed = (number, decimals = 2) => (number === null || number === undefined ? "-" : number.toFixed(decimals));
const signed = (number, decimals = 2) => (number === null ? "-" : (number < 0 ? "" : "+") + number.toFixed(decimals));
const interval = (low, high, decimals) => (low === null || low === undefined ? "" : ` [${low.toFixed(decimals)}, ${high.toFixed(decimals)}]`);
const colour = (number) => `c${number % 6}`;
