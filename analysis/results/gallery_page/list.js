// The list: groups of cards, a page at a time, and what is picked.

const groupOf = (one) =>
  state.group === "title"
    ? one.title
    : state.group === ""
      ? ""
      : at(one, keyOf.get(state.group) ?? -9);

function grouped(found) {
  const groups = new Map();
  for (const one of found) {
    const group = groupOf(one);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(one);
  }
  return groups;
}

function inOrder(found) {
  const seed = (one) => Number(setting(one, "seed") ?? Infinity);
  if (state.order === "newest")
    found.sort(
      (a, b) =>
        String(setting(b, "created") ?? "").localeCompare(String(setting(a, "created") ?? "")) ||
        a.place - b.place,
    );
  if (state.order === "seed") found.sort((a, b) => seed(a) - seed(b) || a.place - b.place || 0);
  const groups = grouped(found);
  const names = [...groups.keys()];
  if (state.group && state.group !== "title" && state.order !== "newest") names.sort(compareValues);
  return { groups, order: names.flatMap((name) => groups.get(name)) };
}

/** Settings in which the results of a mode differ, what was slid along a strip first. */
function telling(found) {
  const seen = new Map();
  for (const one of found) {
    const mode = at(one, keyOf.get("mode"));
    if (!seen.has(mode)) seen.set(mode, new Map());
    for (const key of facets) {
      const values = seen.get(mode);
      if (!values.has(key)) values.set(key, new Set());
      values.get(key).add(at(one, key));
    }
  }
  return (one) => {
    const differ = [...seen.get(at(one, keyOf.get("mode")))]
      .filter(([, v]) => v.size > 1)
      .map(([key]) => key);
    const strip = keyOf.get(setting(one, "strip"));
    return [...new Set([strip, ...differ])]
      .filter(
        (key) => key !== undefined && at(one, key) !== ABSENT && words(at(one, key)) !== one.title,
      )
      .filter((key) => !["mode", "prompt", "input.file", "strip"].includes(data.keys[key]))
      .slice(0, 4)
      .map((key) => `${spelled(key)}\u00a0${words(at(one, key))}`)
      .join(" \u00b7 ");
  };
}

function picture(one) {
  const [width, height] = one.size;
  const small = Math.max(width, height) <= SMALL;
  const image = h("img", {
    src: one.url,
    alt: "",
    width,
    height,
    loading: "lazy",
    decoding: "async",
    class: small && "small",
  });
  image.style.setProperty("--side", width);
  return image;
}

/** A result in small. */
function face(one) {
  if (one.kind === "picture") return picture(one);
  if (one.kind === "film")
    return h("video", { src: one.url, muted: true, preload: "metadata", tabindex: -1 });
  return h("blockquote", null, one.text ?? one.id.split(".").at(-1));
}

function card(one, meta) {
  const made = h(
    "div",
    {
      role: "option",
      class: "card",
      "data-id": one.id,
      tabindex: one.id === current ? 0 : -1,
      "aria-label": [one.kind, setting(one, "mode"), one.title, meta, one.text]
        .filter(Boolean)
        .join(", "),
      onclick: (event) => {
        current = one.id;
        if (event.shiftKey || event.ctrlKey || event.metaKey || event.target.closest(".tick"))
          pick(one.id);
        else set({ view: one.id }, true);
      },
      onfocus: () => {
        moveTo(one.id);
      },
    },
    h("div", { class: "mat" }, face(one)),
    h("span", { class: "tick", "aria-hidden": "true" }),
    state.group === "title" ? null : h("div", { class: "what" }, one.title),
    h("div", { class: "meta" }, meta + (one.note ? `${meta && " \u00b7 "}see its note` : "")),
  );
  return made;
}

function showList() {
  const typed = conditions(state.q).reduce((left, test) => left.filter(test), results);
  const { groups, order } = inOrder(typed.filter((one) => passes(one)));
  matching = order;
  const pages = Math.max(1, Math.ceil(matching.length / AT_ONCE));
  state.page = Math.min(Math.max(1, Math.floor(state.page)), pages);
  const here = matching.slice((state.page - 1) * AT_ONCE, state.page * AT_ONCE);
  if (!here.some((one) => one.id === current)) current = here[0]?.id ?? "";
  const hadFocus = list.contains(document.activeElement);
  const told = telling(matching);
  list.replaceChildren(
    ...[...grouped(here)].map(([group, members], i) => {
      const name =
        state.group === "" ? "All results" : state.group === "title" ? group : words(group);
      const prefix = ["", "title", "mode", "prompt", "input.file"].includes(state.group)
        ? ""
        : `${spelled(keyOf.get(state.group))} `;
      const count = groups.get(group).length;
      return h(
        "div",
        { role: "group", class: "group", "aria-labelledby": `group-${i}` },
        h(
          "h2",
          { id: `group-${i}`, role: "presentation" },
          prefix + name,
          h(
            "span",
            { class: "count" },
            members.length < count ? `${members.length} of ${count} here` : `${count}`,
          ),
        ),
        h(
          "div",
          { class: "cards", role: "presentation" },
          ...members.map((one) => card(one, told(one))),
        ),
      );
    }),
  );
  if (hadFocus) focusCurrent();
  showFacets(typed);
  $("pages").hidden = pages < 2;
  $("where").textContent = `page ${state.page} of ${pages}`;
  $("before").disabled = state.page < 2;
  $("after").disabled = state.page >= pages;
  $("empty").hidden = matching.length > 0;
  $("empty").textContent = results.length
    ? "No result passes these filters."
    : "There are no results yet. Make some, then write this page again.";
  $("clear").hidden = !state.q && !state.where.size;
  $("status").textContent =
    (matching.length === results.length ? "" : `${matching.length} of `) +
    `${results.length} result${results.length === 1 ? "" : "s"}`;
}

function moveTo(id) {
  if (id === current) return;
  list.querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
  current = id;
  cardOf(id)?.setAttribute("tabindex", 0);
}
const cardOf = (id) => list.querySelector(`[data-id="${CSS.escape(id)}"]`);
const focusCurrent = () => cardOf(current)?.focus();

function pick(id) {
  const picks = state.picks.includes(id)
    ? state.picks.filter((other) => other !== id)
    : [...state.picks, id];
  set({ picks });
}

/** Put the numbers of picks on the cards and the picks in the tray. */
function showPicks() {
  for (const made of list.querySelectorAll(".card")) {
    const number = state.picks.indexOf(made.dataset.id) + 1;
    made.setAttribute("aria-selected", String(number > 0));
    made.querySelector(".tick").dataset.number = number || "+";
  }
  $("tray").hidden = !state.picks.length;
  $("compare").textContent = `Compare ${state.picks.length}`;
  $("compare").disabled = state.picks.length < 2;
  $("picked").replaceChildren(
    ...state.picks.slice(-6).map((id) => {
      const one = byId.get(id);
      return h(
        "li",
        { title: one.title },
        one.size
          ? h("img", { src: one.url, alt: one.title })
          : (one.text?.slice(0, 40) ?? one.kind),
      );
    }),
  );
}
