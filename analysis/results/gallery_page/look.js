// The closer look: one result with its whole record, or picked ones side by side with what differs.

const isOpen = { same: false, circumstances: false }; // which folded parts are open

/** A result's picture in a frame that scrolls, or its text; `others` are words not to be marked. */
function sight(result, others) {
  if (result.kind === "film") {
    const label = `Film: ${result.title}`;
    return h("video", { src: result.url, controls: true, loop: true, "aria-label": label });
  }
  if (result.kind === "file") return h("p.saying", null, h("a", { href: result.url }, result.id));
  if (result.kind === "text") return h("blockquote.saying", null, ...marked(result.text, others));
  const frame = h(
    "div.frame",
    {
      tabindex: 0,
      role: "group",
      "aria-label": `Picture: ${result.title}`,
      "data-width": result.size[0],
      "data-height": result.size[1],
      onscroll: () => scrollAlike(frame),
      onpointerdown: (event) =>
        event.pointerType === "mouse" && frame.setPointerCapture(event.pointerId),
      onpointermove: (event) =>
        frame.hasPointerCapture(event.pointerId) &&
        frame.scrollBy(-event.movementX, -event.movementY),
    },
    h("img", { src: result.url, alt: result.title, draggable: "false" }),
  );
  return h("figure", null, frame, h("figcaption.meta"));
}

/** A text in pieces; words that the reference lacks are marked. */
function marked(text, reference) {
  if (reference === undefined || reference === text) return [text];
  const known = new Set(reference.toLowerCase().match(/[\p{L}\p{N}]+/gu) || []);
  return text
    .split(/([\p{L}\p{N}]+)/u)
    .map((piece, i) => (i % 2 && !known.has(piece.toLowerCase()) ? h("mark", null, piece) : piece));
}

/** Each picture at the chosen zoom; 0 fits it, small ones by a whole factor. */
function zoomFrames() {
  for (const frame of look.querySelectorAll(".frame")) {
    const [width, height] = [+frame.dataset.width, +frame.dataset.height];
    const room = Math.min(frame.clientWidth / width, frame.clientHeight / height);
    const factor = state.zoom || (room >= 1 ? Math.floor(room) : room);
    const x = (frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth;
    const y = (frame.scrollTop + frame.clientHeight / 2) / frame.scrollHeight;
    frame.dataset.factor = factor;
    frame.firstChild.style.width = `${width * factor}px`;
    frame.firstChild.style.height = `${height * factor}px`;
    lead( // what was in the middle stays there
      frame,
      x * frame.scrollWidth - frame.clientWidth / 2,
      y * frame.scrollHeight - frame.clientHeight / 2,
    );
    frame.firstChild.classList.toggle("pixels", factor > 1);
    const scale = factor < 1 ? `at ${Math.round(100 * factor)} %` : `${factor} : 1`;
    frame.nextSibling.textContent = `${width} \u00d7 ${height} pixels, shown ${scale}`;
  }
  for (const key of look.querySelectorAll("[data-zoom]")) {
    key.disabled = !look.querySelector(".frame");
    if ("01".includes(key.dataset.zoom))
      key.setAttribute("aria-pressed", String(state.zoom === +key.dataset.zoom));
  }
}

function zoom(how) {
  const factor = +(look.querySelector(".frame")?.dataset.factor ?? 1);
  const next =
    how === "+" ? Math.floor(factor) + 1 : how === "-" ? Math.max(1, Math.ceil(factor) - 1) : +how;
  set({ zoom: Math.min(32, next) });
}

/** What is looked at in one frame is looked at in all. */
function scrollAlike(frame) {
  if (led.get(frame) === `${frame.scrollLeft} ${frame.scrollTop}`) return;
  const share = (length, inner, outer) => (inner > outer ? length / (inner - outer) : 0);
  const x = share(frame.scrollLeft, frame.scrollWidth, frame.clientWidth);
  const y = share(frame.scrollTop, frame.scrollHeight, frame.clientHeight);
  for (const other of look.querySelectorAll(".frame")) {
    const [width, height] = [other.scrollWidth, other.scrollHeight];
    if (other !== frame)
      lead(other, x * (width - other.clientWidth), y * (height - other.clientHeight));
  }
}

const led = new Map(); // frame -> where it was scrolled by us, so that it does not lead in turn
function lead(frame, left, top) {
  frame.scrollTo(left, top);
  led.set(frame, `${frame.scrollLeft} ${frame.scrollTop}`);
}

/** Below a result: its files, what is odd about it, and what it was made from. */
function about(result, name = result.id) {
  const record = result.json ? h("a", { href: result.json }, "record") : null;
  const own = result.inputs.map((input) => input.name).join(", ") || null;
  return [
    h("p.links", null, h("a", { href: result.url, title: result.id }, name), record),
    result.note ? h("p.note", null, result.note) : null,
    own && h("figure.from", null, inputs(result), h("figcaption.meta", null, `made from ${own}`)),
  ];
}

/** A record's keys in the order of reading: as they are, but long ones last. */
function keysOf(chosen) {
  const keys = [...new Set(chosen.flatMap((result) => [...result.record.keys()]))];
  return keys
    .filter((key) => data.keys[key] !== "file")
    .sort((a, b) => isLong(a) - isLong(b) || rank(a) - rank(b));
}

function row(key, chosen) {
  const first = at(chosen[0], key);
  const isText = (value) => typeof data.values[value] === "string" && words(value).includes(" ");
  const cells = chosen.map((result, i) => {
    const value = at(result, key);
    const other = i > 0 && value !== first;
    const kind = `td${other ? ".other" : ""}${value === ABSENT ? ".absent" : ""}`;
    const mark = other && isText(value) && isText(first);
    return h(kind, null, ...(mark ? marked(words(value), words(first)) : [words(value)]));
  });
  const name = h("th", { scope: "row" }, spelled(key).replace(/^found /, ""));
  return h("tr", { "data-key": data.keys[key] }, name, ...cells);
}

/** Rows of a table under a title; with the name of a part that can be folded, a button for it. */
function part(title, keys, chosen, fold) {
  if (!keys.length) return [];
  const hidden = fold && !isOpen[fold];
  const rows = keys.map((key) => row(key, chosen));
  const body = h("tbody", { hidden, "data-part": title }, ...rows);
  const text = () => (isOpen[fold] ? "Hide" : "Show");
  const toggle = (event) => {
    isOpen[fold] = !isOpen[fold];
    body.hidden = !isOpen[fold];
    event.target.textContent = text();
    event.target.setAttribute("aria-expanded", String(isOpen[fold]));
  };
  const more = { "aria-expanded": String(isOpen[fold]), "aria-label": `Show: ${title}` };
  const head = titleOf(fold ? `${title} (${keys.length})` : title, chosen);
  if (fold) head.querySelector("th").append(button(text(), toggle, more));
  return [head, body];
}

const titleOf = (text, chosen) =>
  h(
    "tbody.title",
    null,
    h("tr", null, h("th", { scope: "rowgroup", colspan: chosen.length + 1 }, text)),
  );

/** Result's settings as table parts: what differs, what was found, what is alike, circumstances. */
function facts(chosen) {
  const keys = keysOf(chosen);
  const settings = keys.filter((key) => !isCircumstance(key));
  const found = keys.filter((key) => /^found\b/.test(data.keys[key]));
  const rest = keys.filter((key) => isCircumstance(key) && !found.includes(key));
  const split = (test) => [settings.filter(test), settings.filter((key) => !test(key))];
  if (chosen.length === 1) {
    const [long, short] = split(isLong);
    return [
      ...part("Settings", short, chosen),
      ...part("Found", found, chosen),
      ...part("Weights, inputs, versions", [...long, ...rest], chosen, "circumstances"),
    ];
  }
  const [differing, alike] = split((key) =>
    chosen.some((result) => at(result, key) !== at(chosen[0], key)),
  );
  return [
    ...part("Settings that differ", differing, chosen),
    ...(differing.length ? [] : [titleOf("No setting differs", chosen)]),
    ...part("Found", found, chosen),
    ...part("Settings alike", alike, chosen, "same"),
    ...part("Circumstances", rest, chosen, "circumstances"),
  ];
}

function lookAtOne(result) {
  const parts = (setting(result, "of") || "").split(", ").filter((id) => byId.has(id));
  const compare = () => set({ picks: parts, view: "compare" });
  const more =
    parts.length > 1 ? button(`Compare the ${parts.length} it was made of`, compare) : null;
  const beside = [h("p.what", null, result.title), ...about(result), more].filter(Boolean);
  const table = h("table.facts", null, ...facts([result]));
  $("sight").replaceChildren(h("div.one", null, sight(result), h("div", null, ...beside, table)));
}

function lookAtMany(chosen) {
  const head = chosen.map((result, i) => {
    const toFront = () =>
      set({ picks: [result.id, ...state.picks.filter((id) => id !== result.id)] });
    const number = h("span.order", { "aria-hidden": "true" }, `${i + 1}`);
    return h(
      "th",
      { scope: "col", "data-id": result.id },
      sight(result, i ? chosen[0].text : undefined),
      h("p.what", null, number, result.title),
      ...about(result, result.kind),
      h(
        "p.links",
        null,
        i ? button("Compare to this", toFront) : null,
        button("Remove", () => pick(result.id)),
      ),
    );
  });
  const top = h("thead", null, h("tr", null, h("td"), ...head));
  const table = h("table.facts.many", null, top, ...facts(chosen));
  table.style.setProperty("--count", chosen.length);
  $("sight").replaceChildren(table);
}

/** Show, change or close the dialog, as the state has it. */
function showLook() {
  const result = byId.get(state.view);
  const chosen = state.picks.map((id) => byId.get(id));
  const many = state.view === "compare" && chosen.length > 0;
  if (!result && !many) {
    if (look.open) look.close();
    return;
  }
  const what = many ? `compare ${state.picks.join("\n")}` : state.view;
  if (look.dataset.what !== what || !look.open) {
    led.clear();
    if (many) lookAtMany(chosen);
    else lookAtOne(result);
    $("sight").scrollTop = 0;
  }
  look.dataset.what = what;
  const place = matching.indexOf(result);
  const where = place < 0 ? "filtered out" : `${place + 1} of ${matching.length}`;
  $("look-title").textContent = many
    ? `${chosen.length} results side by side`
    : `${setting(result, "mode")}, ${where}`;
  for (const id of ["back", "forth", "pick"]) $(id).hidden = many;
  if (result) {
    $("back").disabled = place < 1;
    $("forth").disabled = place < 0 || place > matching.length - 2;
    $("pick").textContent = state.picks.includes(result.id) ? "Picked" : "Pick";
    $("pick").setAttribute("aria-pressed", String(state.picks.includes(result.id)));
  }
  if (!look.open) {
    look.showModal();
    $("sight").focus();
  }
  zoomFrames();
}

/** To the neighbour in the list of a result that is looked at. */
function walk(by) {
  const next = matching[matching.findIndex((result) => result.id === state.view) + by];
  if (!next || state.view === "compare") return;
  current = next.id;
  set({ view: next.id });
}
