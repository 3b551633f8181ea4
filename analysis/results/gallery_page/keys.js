// Keys, and what happens once when the page is opened.

/** The card that an arrow leads to: beside, or the nearest in the row above or below. */
function neighbour(key) {
  const cards = [...list.querySelectorAll(".card")];
  const here = cards.indexOf(cardOf(current));
  if (key === "Home" || key === "End") return cards.at(key === "Home" ? 0 : -1);
  if (key === "ArrowLeft" || key === "ArrowRight")
    return cards[here + (key === "ArrowLeft" ? -1 : 1)];
  const box = (made) => made.getBoundingClientRect();
  const from = box(cards[here]);
  const beyond = cards.filter((made) =>
    key === "ArrowDown" ? box(made).top >= from.bottom : box(made).bottom <= from.top,
  );
  const gap = (made) => Math.abs(box(made).top - from.top);
  const row = beyond.filter((made) => gap(made) < Math.min(...beyond.map(gap)) + 1);
  const aside = (made) => Math.abs(box(made).left - from.left);
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
  "+": () => zoom("+"),
  "=": () => zoom("+"),
  "-": () => zoom("-"),
  0: () => zoom("0"),
  1: () => zoom("1"),
  ArrowLeft: () => walk(-1),
  ArrowRight: () => walk(1),
  " ": () => byId.has(state.view) && pick(state.view),
  c: KEYS.c,
  t: KEYS.t,
  "?": KEYS["?"],
};

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  const inControl = target.closest("button, a, select, summary, input");
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (target === query) {
    if (key !== "Enter" && key !== "Escape") return;
    focusCurrent();
  } else if (
    inControl &&
    (key === " " ||
      key === "Enter" ||
      target.matches("select") ||
      (target.matches("input") && key.startsWith("Arrow")))
  ) {
    return; // the control's own keys
  } else if (look.open) {
    const scrolled =
      target.matches(".frame") &&
      target.scrollWidth > target.clientWidth + 1 &&
      key.startsWith("Arrow");
    if (!(key in LOOK_KEYS) || scrolled || (state.view === "compare" && /^Arrow| /.test(key)))
      return;
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

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = THEMES[name];
  $("theme").setAttribute("aria-label", `Theme: ${THEMES[name]}`);
  try {
    localStorage.setItem("gallery-theme", name);
  } catch {
    /* a browser that keeps nothing */
  }
}

function start() {
  let kept = "";
  try {
    kept = localStorage.getItem("gallery-theme") || "";
  } catch {
    /* as above */
  }
  theme(kept in THEMES ? kept : "");
  const made = new Date(data.made).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  $("about").textContent = `${data.folder}, as of ${made}`;
  const choices = [
    ["", "nothing"],
    ["title", "prompt or input"],
    ["mode", "mode"],
    ...facets.map((key) => [data.keys[key], spelled(key)]),
  ];
  $("group").append(...[...new Map(choices)].map(([value, name]) => h("option", { value }, name)));
  for (const [what, items] of [
    ["reports", data.reports],
    ["problems", data.problems],
  ]) {
    $(what).hidden = $(`to-${what}`).hidden = !items.length;
    $(`to-${what}`).textContent = `${$(`${what}-title`).textContent} (${items.length})`;
    $(`to-${what}`).addEventListener("click", (event) => {
      event.preventDefault();
      $(what).scrollIntoView();
    });
  }
  const columns = [
    "model",
    "settings.suite",
    "settings.n",
    "settings.seed",
    "settings.steps",
    "finished",
  ];
  const cell = (one, name) =>
    h(
      "td",
      null,
      name === "finished" ? String(one[name] ?? "").slice(0, 10) : String(one[name] ?? "\u2013"),
    );
  $("reports")
    .querySelector("table")
    .append(
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          h("th", null, "run"),
          ...columns.map((name) => h("th", { scope: "col" }, name.replace("settings.", ""))),
          h("th", null, "data"),
        ),
      ),
      h(
        "tbody",
        null,
        ...data.reports.map((one) =>
          h(
            "tr",
            null,
            h("td", null, h("a", { href: one.name }, one.run)),
            ...columns.map((name) => cell(one, name)),
            h("td", null, h("a", { href: one.json }, "JSON")),
          ),
        ),
      ),
    );
  $("problems")
    .querySelector("ul")
    .append(...data.problems.map((problem) => h("li", null, problem)));

  const on = (id, name, then) => $(id).addEventListener(name, then);
  on("theme", "click", () =>
    theme({ "": "light", light: "dark", dark: "" }[document.documentElement.dataset.theme]),
  );
  on("ask", "click", KEYS["?"]);
  on("query", "input", () => set({ q: query.value }));
  on("group", "change", () => set({ group: $("group").value }));
  on("order", "change", () => set({ order: $("order").value }));
  on("clear", "click", () => {
    query.value = "";
    set({ q: "", where: new Map() });
    query.focus();
  });
  on("fold", "click", () =>
    $("fold").setAttribute("aria-expanded", String($("facets").classList.toggle("open"))),
  );
  on("before", "click", () => turn(-1));
  on("after", "click", () => turn(1));
  on("compare", "click", KEYS.c);
  on("unpick", "click", KEYS.x);
  on("back", "click", () => walk(-1));
  on("forth", "click", () => walk(1));
  on("pick", "click", () => pick(state.view));
  on("close", "click", () => look.close());
  for (const one of look.querySelectorAll("[data-zoom]"))
    one.addEventListener("click", () => zoom(one.dataset.zoom));
  look.addEventListener("close", () => {
    const last = byId.has(state.view) ? state.view : current; // the browser went back to the first
    if (state.view) set({ view: "" });
    moveTo(last);
    const page = 1 + Math.floor(matching.findIndex((one) => one.id === current) / AT_ONCE);
    if (page > 0 && page !== state.page) set({ page });
    focusCurrent();
  });
  addEventListener("resize", zoomFrames);
  for (const name of ["popstate", "hashchange"]) addEventListener(name, restore);
  restore();
}

function restore() {
  readAddress();
  query.value = state.q;
  $("group").value = state.group;
  $("order").value = state.order;
  showList();
  showPicks();
  showLook();
}

start();
