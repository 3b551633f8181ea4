"use strict";
// Everything that is shown is built as elements and text nodes, never as strings of HTML, so a
// prompt or a file name stays text, whatever it holds. In a record, keys and values are numbers
// that count into data.keys and data.values; ABSENT is the value of a key that a record lacks.

const data = JSON.parse(document.getElementById("data").textContent);
const ABSENT = -1,
  AT_ONCE = 120,
  SHORT_LIST = 16,
  SMALL = 256;
const FIRST = ["mode", "prompt", "input.file", "seed"];
const THEMES = { "": "Auto", light: "Light", dark: "Dark" };
const $ = (id) => document.getElementById(id);
const [list, look, query] = [$("list"), $("look"), $("query")];

const results = data.results.map((one, place) => {
  const record = new Map();
  for (let i = 0; i < one.record.length; i += 2) record.set(one.record[i], one.record[i + 1]);
  return { ...one, place, record };
});
const byId = new Map(results.map((one) => [one.id, one]));
const keyOf = new Map(data.keys.map((name, key) => [name, key]));
const valueOf = new Map(data.values.map((value, k) => [JSON.stringify(value), k]));
const at = (one, key) => one.record.get(key) ?? ABSENT;
const setting = (one, name) => data.values[at(one, keyOf.get(name))];
const spelled = (key) => data.keys[key].replace(/[._]/g, " ");
const isCircumstance = (key) => data.volatile.includes(data.keys[key].split(".")[0]);
const isLong = (key) => /(sha256|^of$|weights\.)/.test(data.keys[key]);

/** A setting's value in words. */
function words(value) {
  if (value === ABSENT) return "\u2013";
  const given = data.values[value];
  if (given === null) return "none";
  if (typeof given === "boolean") return given ? "yes" : "no";
  return given === "" ? "(empty)" : String(given);
}

/** An element; attributes that begin with "on" are listeners, null and false ones are left out. */
function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);

// ---------------------------------------------------------------- state, kept in the address

const START = { q: "", group: "mode", order: "number", page: 1, view: "", zoom: 0 };
const state = { ...START, where: new Map(), picks: [] };
let matching = []; // what passes the filters, in order
let current = ""; // id of the result that the keys are at

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(START)) {
    const text = given.get(name);
    state[name] =
      text === null ? value : typeof value === "number" ? Math.max(0, +text || 0) : text;
  }
  state.picks = [...new Set(given.getAll("pick"))].filter((id) => byId.has(id));
  state.where = new Map();
  for (const [name, text] of given) {
    const key = name.startsWith("is.") ? keyOf.get(name.slice(3)) : undefined;
    const value = text === "-" ? ABSENT : valueOf.get(text);
    if (key === undefined || value === undefined) continue;
    state.where.set(key, (state.where.get(key) || new Set()).add(value));
  }
}

function writeAddress(push) {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(START))
    if (state[name] !== value) told.set(name, state[name]);
  for (const [key, values] of state.where) {
    for (const value of values) {
      told.append(
        `is.${data.keys[key]}`,
        value === ABSENT ? "-" : JSON.stringify(data.values[value]),
      );
    }
  }
  for (const id of state.picks) told.append("pick", id);
  if (`#${told}` === location.hash || (!location.hash && !`${told}`)) return;
  history[push ? "pushState" : "replaceState"](null, "", `#${told}`);
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
function hay(one) {
  if (!haystack.has(one)) {
    const texts = [...one.record].filter(([key]) => !isLong(key)).map(([, value]) => words(value));
    haystack.set(one, [one.id, one.title, one.text || "", ...texts].join("\n").toLowerCase());
  }
  return haystack.get(one);
}

/** What was typed, as functions of a result that all have to be true. */
function conditions(text) {
  return (text.toLowerCase().match(/[^\s"]*"[^"]*"?|\S+/g) || []).map((term) => {
    const rule = /^([^=<>]+)([=<>])(.+)$/.exec(term.replaceAll('"', ""));
    const key =
      rule &&
      data.keys.findIndex((_, k) =>
        [data.keys[k], spelled(k)].some((n) => n.toLowerCase() === rule[1]),
      );
    if (!rule || key < 0) return (one) => hay(one).includes(term.replaceAll('"', ""));
    return (one) => {
      const value = at(one, key);
      if (value === ABSENT) return false;
      if (rule[2] === "=")
        return words(value).toLowerCase() === rule[3] || data.values[value] === +rule[3];
      return rule[2] === "<" ? data.values[value] < +rule[3] : data.values[value] > +rule[3];
    };
  });
}

/** Settings that results differ in, worth choosing from: FIRST ones, then as they came. */
const facets = data.keys
  .map((_, key) => key)
  .filter((key) => !isCircumstance(key) && !isLong(key))
  .filter(
    (key) =>
      data.keys[key] === "folder" ||
      new Set(results.map((one) => at(one, key)).filter((v) => v !== ABSENT)).size > 1,
  )
  .sort((a, b) => rank(a) - rank(b));
function rank(key) {
  const first = FIRST.indexOf(data.keys[key]);
  return first < 0 ? FIRST.length + key : first;
}

const passes = (one, except) =>
  [...state.where].every(([key, values]) => key === except || values.has(at(one, key)));

function compareValues(a, b) {
  const [x, y] = [data.values[a], data.values[b]];
  if (a === ABSENT || b === ABSENT) return (a === ABSENT) - (b === ABSENT);
  return typeof x === "number" && typeof y === "number"
    ? x - y
    : String(x).localeCompare(String(y));
}

function showFacets(typed) {
  const open = new Set(
    [...$("facets").querySelectorAll("details[open]")].map((d) => +d.dataset.key),
  );
  const all = new Set(
    [...$("facets").querySelectorAll("details[data-all]")].map((d) => +d.dataset.key),
  );
  const focused = document.activeElement?.id;
  const first = !$("facets").childElementCount;
  $("facets").replaceChildren(
    ...facets.map((key) => {
      const chosen = state.where.get(key) || new Set();
      const counts = new Map();
      for (const one of results) if (!counts.has(at(one, key))) counts.set(at(one, key), 0);
      for (const one of typed)
        if (passes(one, key)) counts.set(at(one, key), counts.get(at(one, key)) + 1);
      const values = [...counts.keys()].sort(compareValues);
      const shown = all.has(key)
        ? values
        : values.filter((v, i) => i < SHORT_LIST || chosen.has(v));
      const box = h(
        "details",
        {
          "data-key": key,
          "data-all": all.has(key),
          open: open.has(key) || (first && (data.keys[key] === "mode" || chosen.size > 0)),
        },
        h(
          "summary",
          null,
          spelled(key),
          h("span", { class: "count" }, chosen.size ? `${chosen.size} chosen` : `${values.length}`),
        ),
      );
      for (const value of shown) {
        const toggle = () => {
          const next = new Set(chosen);
          if (!next.delete(value)) next.add(value);
          const where = new Map(state.where);
          if (next.size) where.set(key, next);
          else where.delete(key);
          set({ where });
        };
        box.append(
          h(
            "label",
            { title: words(value), class: counts.get(value) ? "" : "none" },
            h("input", {
              type: "checkbox",
              id: `is-${key}-${value}`,
              onchange: toggle,
              checked: chosen.has(value),
            }),
            h("span", null, words(value)),
            h("span", { class: "count" }, `${counts.get(value)}`),
          ),
        );
      }
      if (shown.length < values.length) {
        box.append(
          button(`All ${values.length}`, () => {
            box.dataset.all = "";
            showFacets(typed);
          }),
        );
      }
      return box;
    }),
  );
  if (focused?.startsWith("is-")) $(focused)?.focus();
}
