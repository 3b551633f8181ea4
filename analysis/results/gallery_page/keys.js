// Keys, and what happens once when the page is opened.

/** The card that an arrow leads to: beside, or the nearest in the row above or below. */
function neighbour(key) {
  const cards = [...list.querySelectorAll(".card")];
  const here = cards.indexOf(cardOf(current));
  if (key === "Home" || key === "End") return cards.at(key === "Home" ? 0 : -1);
  if (key === "ArrowLeft" || key === "ArrowRight")
    return cards[here + (key === "ArrowLeft" ? -1 : 1)];
  const box = (shown) => shown.getBoundingClientRect();
  const from = box(cards[here]);
  const beyond = cards.filter((shown) =>
    key === "ArrowDown" ? box(shown).top >= from.bottom : box(shown).bottom <= from.top,
  );
  const gap = (shown) => Math.abs(box(shown).top - from.top);
  const row = beyond.filter((shown) => gap(shown) < Math.min(...beyond.map(gap)) + 1);
  const aside = (shown) => Math.abs(box(shown).left - from.left);
  return row.sort((a, b) => aside(a) - aside(b))[0];
}

function turn(by) {
  if ($(by < 0 ? "before" : "after").disabled || $("pages").hidden) return;
  current = "";
  set({ page: state.page + by });
  focusCurrent();
}

const KEYS = {
  "/": () => {
    query.focus();
    query.select();
  },
  "?": () => $("help").showModal(),
  c: () => state.picks.length > 1 && set({ view: "compare" }, true),
  x: () => set({ picks: [] }),
  t: () => $("theme").click(),
  n: () => turn(1),
  p: () => turn(-1),
};
const LOOK_KEYS = {
  ...Object.fromEntries(["+", "-", "0", "1"].map((key) => [key, () => zoom(key)])),
  "=": () => zoom("+"),
  ArrowLeft: () => walk(-1),
  ArrowRight: () => walk(1),
  " ": () => byId.has(state.view) && pick(state.view),
  ...{ c: KEYS.c, t: KEYS.t, "?": KEYS["?"] },
};

/** Whether a key means something to the control that has the focus. */
function isOwnKey(key, target) {
  const isPress = key === " " || key === "Enter";
  if (look.open && target.matches(".frame"))
    return target.scrollWidth > target.clientWidth + 1 && key.startsWith("Arrow");
  if (target.matches("select")) return true;
  if (target.matches("input")) return isPress || key.startsWith("Arrow");
  return isPress && target.closest("button, a, summary") !== null;
}

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (target === query) {
    if (key !== "Enter" && key !== "Escape") return;
    focusCurrent();
  } else if (isOwnKey(key, target)) {
    return;
  } else if (look.open) {
    if (!(key in LOOK_KEYS) || (state.view === "compare" && /^Arrow| /.test(key))) return;
    LOOK_KEYS[key]();
  } else if (key in KEYS) {
    KEYS[key]();
  } else if (/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(key) && cardOf(current)) {
    if (!list.contains(target)) focusCurrent();
    else (neighbour(key) || cardOf(current)).focus();
  } else if (target.matches(".card") && key === " ") {
    pick(target.dataset.id);
  } else if (target.matches(".card") && key === "Enter") {
    set({ view: target.dataset.id }, true);
  } else return;
  event.preventDefault();
});

// ---------------------------------------------------------------- the rest of the page

/** Kept by the browser, if it keeps anything. */
function kept(change) {
  try {
    return change(localStorage);
  } catch {
    return null;
  }
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = THEMES[name];
  $("theme").setAttribute("aria-label", `Theme: ${THEMES[name]}`);
  kept((storage) => storage.setItem("gallery-theme", name));
}

function showReports() {
  const columns = ["model", "settings.suite", "settings.n", "settings.seed", "settings.steps"];
  const names = columns.map((name) => name.replace("settings.", ""));
  const link = (url, text) => h("td", null, h("a", { href: url }, text));
  const rows = data.reports.map((result) => {
    const cells = columns.map((name) => h("td", null, String(result[name] ?? "\u2013")));
    const day = h("td", null, String(result.finished ?? "").slice(0, 10));
    return h("tr", null, link(result.name, result.run), ...cells, day, link(result.json, "JSON"));
  });
  const heads = ["run", ...names, "finished", "data"];
  const head = h("tr", null, ...heads.map((name) => h("th", { scope: "col" }, name)));
  const table = $("reports").querySelector("table");
  table.append(h("thead", null, head), h("tbody", null, ...rows));
}

function start() {
  const before = kept((storage) => storage.getItem("gallery-theme"));
  theme(before in THEMES ? before : "");
  const made = new Date(data.made).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  $("about").textContent = `${data.folder}, as of ${made}`;
  const choices = new Map([["", "nothing"], ["title", "prompt or input"], ["mode", "mode"]]);
  for (const key of facets) choices.set(data.keys[key], spelled(key));
  $("group").append(...[...choices].map(([value, name]) => h("option", { value }, name)));
  for (const what of ["reports", "problems"]) {
    $(what).hidden = $(`to-${what}`).hidden = !data[what].length;
    $(`to-${what}`).textContent = `${$(`${what}-title`).textContent} (${data[what].length})`;
    $(`to-${what}`).addEventListener("click", (event) => {
      event.preventDefault();
      $(what).scrollIntoView();
    });
  }
  showReports();
  const problems = data.problems.map((problem) => h("li", null, problem));
  $("problems").querySelector("ul").append(...problems);

  const clicks = {
    theme: () => {
      const names = Object.keys(THEMES);
      const now = names.indexOf(document.documentElement.dataset.theme);
      theme(names[(now + 1) % names.length]);
    },
    ask: KEYS["?"],
    clear: () => {
      query.value = "";
      set({ q: "", where: new Map() });
      query.focus();
    },
    fold: () =>
      $("fold").setAttribute("aria-expanded", String($("facets").classList.toggle("open"))),
    before: () => turn(-1),
    after: () => turn(1),
    compare: KEYS.c,
    unpick: KEYS.x,
    back: () => walk(-1),
    forth: () => walk(1),
    pick: () => pick(state.view),
    close: () => look.close(),
  };
  for (const [id, then] of Object.entries(clicks)) $(id).addEventListener("click", then);
  for (const key of look.querySelectorAll("[data-zoom]"))
    key.addEventListener("click", () => zoom(key.dataset.zoom));
  query.addEventListener("input", () => set({ q: query.value }));
  for (const id of ["group", "order"])
    $(id).addEventListener("change", () => set({ [id]: $(id).value }));
  look.addEventListener("close", () => {
    const last = byId.has(state.view) ? state.view : current; // the browser went back to the first
    if (state.view) set({ view: "" });
    moveTo(last);
    const page = 1 + Math.floor(matching.findIndex((result) => result.id === current) / AT_ONCE);
    if (page > 0 && page !== state.page) set({ page });
    focusCurrent();
  });
  addEventListener("resize", zoomFrames);
  for (const name of ["popstate", "hashchange"]) addEventListener(name, restore);
  restore();
}

function restore() {
  readAddress();
  [query.value, $("group").value, $("order").value] = [state.q, state.group, state.order];
  showList();
  showPicks();
  showLook();
}

start();
