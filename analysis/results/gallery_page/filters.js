"use strict";
// Everything that is shown is built as elements and text nodes, never as strings of HTML, so a
// prompt or a file name stays text, whatever it holds. In a record, keys and values are numbers
// that count into data.keys and data.values; ABSENT is the value of a key that a record lacks.

const data = JSON.parse(document.getElementById("data").textContent);
const [ABSENT, AT_ONCE, SHORT_LIST, SMALL] = [-1, 120, 16, 256];
const FIRST = ["mode", "prompt", "input.file", "seed"];
const THEMES = { "": "Auto", light: "Light", dark: "Dark" };
const $ = (id) => document.getElementById(id);
const [list, look, query] = [$("list"), $("look"), $("query")];

const results = data.results.map((result, place) => {
  const [record, pairs] = [new Map(), result.record];
  for (let i = 0; i < pairs.length; i += 2) record.set(pairs[i], pairs[i + 1]);
  return { ...result, place, record, inputs: result.inputs.map((k) => data.inputs[k]) };
});
const byId = new Map(results.map((result) => [result.id, result]));
const keyOf = new Map(data.keys.map((name, key) => [name, key]));
const valueOf = new Map(data.values.map((value, k) => [JSON.stringify(value), k]));
const at = (result, key) => result.record.get(key) ?? ABSENT;
const setting = (result, name) => data.values[at(result, keyOf.get(name))];
const spelled = (key) => data.keys[key].replace(/[._]/g, " ");
const isCircumstance = (key) => data.volatile.includes(data.keys[key].split(".")[0]);
const isLong = (key) => /(sha256|^of$|weights\.)/.test(data.keys[key]);
const modes = [...new Set(results.map((result) => at(result, keyOf.get("mode"))))]; // in order

const SPOKEN = new Map([[undefined, "\u2013"], [null, "none"], [true, "yes"], [false, "no"]]);
SPOKEN.set("", "(empty)");

/** A setting's value in words. */
const words = (value) => SPOKEN.get(data.values[value]) ?? String(data.values[value]);

/** An element, as "tag.class"; attributes that begin with "on" are listeners. */
function h(kind, attributes, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);

// ---------------------------------------------------------------- state, kept in the address

const START = { q: "", group: "mode", order: "number", page: 1, view: "", zoom: 0 };
const state = { ...START, where: new Map(), picks: [] };
let matching = []; // what passes the filters, in order
let current = ""; // id of the result that the keys are at

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(START)) {
    const text = address.get(name) ?? value;
    state[name] = typeof value === "number" ? Math.max(0, +text || 0) : text;
  }
  state.picks = [...new Set(address.getAll("pick"))].filter((id) => byId.has(id));
  state.where = new Map();
  for (const [name, text] of address) {
    const key = name.startsWith("is.") ? keyOf.get(name.slice(3)) : undefined;
    const value = text === "-" ? ABSENT : valueOf.get(text);
    if (key === undefined || value === undefined) continue;
    state.where.set(key, (state.where.get(key) || new Set()).add(value));
  }
}

function writeAddress(push) {
  const address = new URLSearchParams();
  for (const [name, value] of Object.entries(START))
    if (state[name] !== value) address.set(name, state[name]);
  for (const [key, values] of state.where)
    for (const value of values)
      address.append(
        `is.${data.keys[key]}`,
        value === ABSENT ? "-" : JSON.stringify(data.values[value]),
      );
  for (const id of state.picks) address.append("pick", id);
  if (`#${address}` === location.hash || (!location.hash && !`${address}`)) return;
  history[push ? "pushState" : "replaceState"](null, "", `#${address}`);
}

/** Change the state and show it; whatever narrows or orders the list starts at its first page. */
function set(change, push = false) {
  const looking = ["view", "picks", "zoom"].some((name) => name in change);
  if (!looking && !("page" in change)) state.page = 1;
  Object.assign(state, change);
  writeAddress(push);
  if (!looking) showList();
  showPicks();
  showLook();
}

// ---------------------------------------------------------------- filters

const haystack = new Map();
function hay(result) {
  if (!haystack.has(result)) {
    const short = [...result.record].filter(([key]) => !isLong(key));
    const texts = short.map(([, value]) => words(value));
    const all = [result.id, result.title, result.text || "", ...texts].join("\n");
    haystack.set(result, all.toLowerCase());
  }
  return haystack.get(result);
}

/** What was typed, as functions of a result that all have to be true. */
function conditions(text) {
  return (text.toLowerCase().match(/[^\s"]*"[^"]*"?|\S+/g) || []).map((quoted) => {
    const term = quoted.replaceAll('"', "");
    const [, name, sign, asked] = /^([^=<>]+)([=<>])(.+)$/.exec(term) || [];
    const key = data.keys.findIndex((own, k) =>
      [own, spelled(k)].some((spelling) => spelling.toLowerCase() === name),
    );
    if (key < 0) return (result) => hay(result).includes(term);
    return (result) => {
      const [value, held] = [at(result, key), data.values[at(result, key)]];
      if (value === ABSENT) return false;
      if (sign === "=") return words(value).toLowerCase() === asked || held === +asked;
      return sign === "<" ? held < +asked : held > +asked;
    };
  });
}

/** Settings that results differ in, worth choosing from: FIRST ones, then as they came. */
const facets = data.keys
  .map((_, key) => key)
  .filter((key) => !isCircumstance(key) && !isLong(key))
  .filter((key) => {
    const values = new Set(results.map((result) => at(result, key)).filter((v) => v !== ABSENT));
    return data.keys[key] === "folder" || values.size > 1;
  })
  .sort((a, b) => rank(a) - rank(b));
function rank(key) {
  const first = FIRST.indexOf(data.keys[key]);
  return first < 0 ? FIRST.length + key : first;
}

const passes = (result, except) =>
  [...state.where].every(([key, values]) => key === except || values.has(at(result, key)));

/** The order of a setting's values: numbers by size, modes as the page has them, words by name. */
function compareValues(key, a, b) {
  if (key === keyOf.get("mode")) return modes.indexOf(a) - modes.indexOf(b);
  if (a === ABSENT || b === ABSENT) return (a === ABSENT) - (b === ABSENT);
  const [x, y] = [data.values[a], data.values[b]];
  return typeof x === "number" && typeof y === "number"
    ? x - y
    : String(x).localeCompare(String(y));
}

function showFacets(typed) {
  const before = (rule) =>
    new Set([...$("facets").querySelectorAll(rule)].map((box) => +box.dataset.key));
  const [open, all] = [before("details[open]"), before("details[data-all]")];
  const focused = document.activeElement?.id;
  const first = !$("facets").childElementCount;
  $("facets").replaceChildren(
    ...facets.map((key) => {
      const chosen = state.where.get(key) || new Set();
      const counts = new Map(results.map((result) => [at(result, key), 0]));
      for (const result of typed)
        if (passes(result, key)) counts.set(at(result, key), counts.get(at(result, key)) + 1);
      const values = [...counts.keys()].sort((a, b) => compareValues(key, a, b));
      const shown = values.filter((v, i) => all.has(key) || i < SHORT_LIST || chosen.has(v));
      const isOpen = open.has(key) || (first && (data.keys[key] === "mode" || chosen.size > 0));
      const count = chosen.size ? `${chosen.size} chosen` : `${values.length}`;
      const summary = h("summary", null, spelled(key), h("span.count", null, count));
      const marks = { "data-key": key, "data-all": all.has(key), open: isOpen };
      const box = h("details", marks, summary);
      box.append(...shown.map((value) => facetValue(key, value, chosen, counts.get(value))));
      if (shown.length < values.length) {
        const showAll = () => {
          box.dataset.all = "";
          showFacets(typed);
        };
        box.append(button(`All ${values.length}`, showAll));
      }
      return box;
    }),
  );
  if (focused?.startsWith("is-")) $(focused)?.focus();
}

/** A box to tick: results with that value of a setting. */
function facetValue(key, value, chosen, count) {
  const onchange = () => {
    const next = new Set(chosen);
    if (!next.delete(value)) next.add(value);
    const where = new Map(state.where).set(key, next);
    if (!next.size) where.delete(key);
    set({ where });
  };
  const [id, checked] = [`is-${key}-${value}`, chosen.has(value)];
  return h(
    count ? "label" : "label.none",
    { title: words(value) },
    h("input", { type: "checkbox", id, onchange, checked }),
    h("span", null, words(value)),
    h("span.count", null, `${count}`),
  );
}
