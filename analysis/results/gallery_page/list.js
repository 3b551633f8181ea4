// The list: groups of cards, a page at a time, and what is picked.

const groupOf = (result) =>
  state.group === "title" ? result.title : state.group && at(result, keyOf.get(state.group) ?? -9);

function grouped(members) {
  const groups = new Map();
  for (const result of members) {
    if (!groups.has(groupOf(result))) groups.set(groupOf(result), []);
    groups.get(groupOf(result)).push(result);
  }
  return groups;
}

function inOrder(members) {
  const seed = (result) => Number(setting(result, "seed") ?? Infinity);
  const created = (result) => String(setting(result, "created") ?? "");
  if (state.order === "newest")
    members.sort((a, b) => created(b).localeCompare(created(a)) || a.place - b.place);
  if (state.order === "seed") members.sort((a, b) => seed(a) - seed(b) || a.place - b.place || 0);
  const groups = grouped(members);
  const names = [...groups.keys()];
  if (state.group && state.group !== "title" && state.order !== "newest")
    names.sort((a, b) => compareValues(keyOf.get(state.group), a, b));
  return { groups, order: names.flatMap((name) => groups.get(name)) };
}

/** Captions that tell cards of a group apart: the settings in which neighbours differ come first,
 * then those that differ anywhere in the group, but never what the title or the heading say. */
function captions(members) {
  const [first] = members;
  const differ = facets.filter((key) => members.some((other) => at(other, key) !== at(first, key)));
  const said = new Set();
  return members.map((result, i) => {
    const beside = [members[i - 1], members[i + 1]].filter(Boolean);
    const near = differ.filter((key) => beside.some((other) => at(other, key) !== at(result, key)));
    const strip = keyOf.get(setting(result, "strip"));
    const parts = [...new Set([strip, ...near, ...differ])]
      .filter((key) => key !== undefined && at(result, key) !== ABSENT)
      .filter((key) => ![state.group, "strip"].includes(data.keys[key]))
      .filter((key) => result.title !== stem(words(at(result, key))))
      .filter((key) => result.title !== words(at(result, key)))
      .slice(0, Math.max(4, Math.min(6, near.length)))
      .sort((a, b) => (b === strip) - (a === strip) || rank(a) - rank(b))
      .map((key) => `${spelled(key).replaceAll(" ", "\u00a0")}\u00a0${words(at(result, key))}`);
    const number = /(?:^|\/)(\d{4,})_[^/]*$/.exec(result.id)?.[1];
    if (number && said.has([result.title, ...parts].join("\n"))) parts.push(`no.\u00a0${+number}`);
    said.add([result.title, ...parts].join("\n"));
    return parts.join(" \u00b7 ");
  });
}
const stem = (name) => name.replace(/\.\w+$/, "");

/** A picture; one that is no larger than `small` is enlarged by a whole factor. */
function picture(result, alt, small = SMALL) {
  const [width, height] = result.size;
  const more = { width, height, loading: "lazy", decoding: "async" };
  const kind = Math.max(width, height) <= small ? "img.small" : "img";
  const image = h(kind, { src: result.url, alt, title: result.name, ...more });
  image.style.setProperty("--side", width);
  return image;
}

/** The pictures that a result was made from. */
const inputs = (result) =>
  result.inputs.length
    ? h("div.inputs", null, ...result.inputs.map((own) => picture(own, `Input: ${own.name}`, 64)))
    : null;

/** A result in small. */
function face(result) {
  if (result.kind === "picture") return picture(result, result.title);
  if (result.kind === "film")
    return h("video", { src: result.url, muted: true, preload: "metadata", tabindex: -1 });
  return h("blockquote", null, result.text ?? result.id.split(".").at(-1));
}

function card(result, caption) {
  const meta = [caption, result.note && "see its note"].filter(Boolean).join(" \u00b7 ");
  const names = result.inputs.map((own) => `from ${own.name}`);
  const label = [result.kind, setting(result, "mode"), result.title, ...names, meta, result.text];
  const onclick = (event) => {
    current = result.id;
    if (event.shiftKey || event.ctrlKey || event.metaKey || event.target.closest(".tick"))
      pick(result.id);
    else set({ view: result.id }, true);
  };
  return h(
    "div.card",
    {
      role: "option",
      "data-id": result.id,
      tabindex: result.id === current ? 0 : -1,
      "aria-label": label.filter(Boolean).join(", "),
      onclick,
      onfocus: () => moveTo(result.id),
    },
    h("div.mat", null, face(result)),
    h("span.tick", { "aria-hidden": "true" }),
    inputs(result),
    state.group === "title" ? null : h("div.what", null, result.title),
    h("div.meta", null, meta),
  );
}

function showList() {
  const typed = conditions(state.q).reduce((left, test) => left.filter(test), results);
  const { groups, order } = inOrder(typed.filter((result) => passes(result)));
  matching = order;
  const pages = Math.max(1, Math.ceil(matching.length / AT_ONCE));
  state.page = Math.min(Math.max(1, Math.floor(state.page)), pages);
  const here = matching.slice((state.page - 1) * AT_ONCE, state.page * AT_ONCE);
  if (!here.some((result) => result.id === current)) current = here[0]?.id ?? "";
  const hadFocus = list.contains(document.activeElement);
  list.replaceChildren(
    ...[...grouped(here)].map(([group, members], i) => {
      const [all, meta] = [groups.get(group), captions(members)];
      const named = ["mode", "prompt", "input.file"].includes(state.group);
      const name =
        state.group === "" ? "All results"
        : state.group === "title" ? group
        : `${named ? "" : `${spelled(keyOf.get(state.group))} `}${words(group)}`;
      const count =
        members.length < all.length ? `${members.length} of ${all.length} here` : `${all.length}`;
      const title = h("h2", { id: `group-${i}`, role: "presentation" }, name);
      title.append(h("span.count", null, count));
      const cards = members.map((result, k) => card(result, meta[k]));
      return h(
        "div.group",
        { role: "group", "aria-labelledby": `group-${i}` },
        title,
        h("div.cards", { role: "presentation" }, ...cards),
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
  const others = state.picks.filter((other) => other !== id);
  set({ picks: others.length < state.picks.length ? others : [...others, id] });
}

/** Put the numbers of picks on the cards and the picks in the tray. */
function showPicks() {
  for (const shown of list.querySelectorAll(".card")) {
    const number = state.picks.indexOf(shown.dataset.id) + 1;
    shown.setAttribute("aria-selected", String(number > 0));
    shown.querySelector(".tick").dataset.number = number || "+";
  }
  $("tray").hidden = !state.picks.length;
  $("compare").textContent = `Compare ${state.picks.length}`;
  $("compare").disabled = state.picks.length < 2;
  const small = ({ size, url, title, text, kind }) =>
    size ? h("img", { src: url, alt: title }) : (text?.slice(0, 40) ?? kind);
  const last = state.picks.slice(-6).map((id) => byId.get(id));
  $("picked").replaceChildren(...last.map((own) => h("li", { title: own.title }, small(own))));
}
