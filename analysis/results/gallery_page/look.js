// The closer look: one result with its whole record, or picked ones side by side with what differs.

const closable = { same: false, circumstances: false }; // which folded parts are open

/** A result's picture in a frame that scrolls, or its text; `others` are words not to be marked. */
function sight(one, others) {
  if (one.kind === "film")
    return h("video", {
      src: one.url,
      controls: true,
      loop: true,
      "aria-label": `Film: ${one.title}`,
    });
  if (one.kind === "file") return h("p", { class: "saying" }, h("a", { href: one.url }, one.id));
  if (one.kind === "text") return h("blockquote", { class: "saying" }, ...marked(one.text, others));
  const [width, height] = one.size;
  const image = h("img", { src: one.url, alt: one.title, draggable: "false" });
  const frame = h(
    "div",
    {
      class: "frame",
      tabindex: 0,
      role: "group",
      "aria-label": `Picture: ${one.title}`,
      "data-width": width,
      "data-height": height,
      onscroll: () => scrollAlike(frame),
      onpointerdown: (event) =>
        event.pointerType === "mouse" && frame.setPointerCapture(event.pointerId),
      onpointermove: (event) =>
        frame.hasPointerCapture(event.pointerId) &&
        frame.scrollBy(-event.movementX, -event.movementY),
    },
    image,
  );
  return h("figure", null, frame, h("figcaption", { class: "meta" }));
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
    const middle = [
      (frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth,
      (frame.scrollTop + frame.clientHeight / 2) / frame.scrollHeight,
    ];
    frame.dataset.factor = factor;
    frame.firstChild.style.width = `${width * factor}px`;
    frame.firstChild.style.height = `${height * factor}px`;
    lead(
      frame,
      middle[0] * frame.scrollWidth - frame.clientWidth / 2,
      middle[1] * frame.scrollHeight - frame.clientHeight / 2,
    );
    frame.firstChild.classList.toggle("pixels", factor > 1);
    const scale = factor < 1 ? `at ${Math.round(100 * factor)} %` : `${factor} : 1`;
    frame.nextSibling.textContent = `${width} \u00d7 ${height} pixels, shown ${scale}`;
  }
  for (const one of look.querySelectorAll("[data-zoom]")) {
    one.disabled = !look.querySelector(".frame");
    if ("01".includes(one.dataset.zoom))
      one.setAttribute("aria-pressed", String(state.zoom === +one.dataset.zoom));
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
  const [x, y] = [
    share(frame.scrollLeft, frame.scrollWidth, frame.clientWidth),
    share(frame.scrollTop, frame.scrollHeight, frame.clientHeight),
  ];
  for (const other of look.querySelectorAll(".frame")) {
    if (other !== frame)
      lead(
        other,
        x * (other.scrollWidth - other.clientWidth),
        y * (other.scrollHeight - other.clientHeight),
      );
  }
}

const led = new Map(); // frame -> where it was scrolled by us, so that it does not lead in turn
function lead(frame, left, top) {
  frame.scrollTo(left, top);
  led.set(frame, `${frame.scrollLeft} ${frame.scrollTop}`);
}

function links(one, name = one.id) {
  return h(
    "p",
    { class: "links" },
    h("a", { href: one.url, title: one.id }, name),
    one.json ? h("a", { href: one.json }, "record") : null,
  );
}

/** A record's keys in the order of reading: as they are, but long ones last. */
function keysOf(chosen) {
  const keys = [...new Set(chosen.flatMap((one) => [...one.record.keys()]))];
  return keys
    .filter((key) => data.keys[key] !== "file")
    .sort((a, b) => isLong(a) - isLong(b) || rank(a) - rank(b));
}

function row(key, chosen) {
  return h(
    "tr",
    { "data-key": data.keys[key] },
    h("th", { scope: "row" }, spelled(key).replace(/^found /, "")),
    ...chosen.map((one, i) => {
      const [value, first] = [at(one, key), at(chosen[0], key)];
      const other = i > 0 && value !== first;
      const texts =
        other &&
        [value, first].every((v) => typeof data.values[v] === "string" && words(v).includes(" "));
      return h(
        "td",
        {
          class: [other && "other", value === ABSENT && "absent"].filter(Boolean).join(" ") || null,
        },
        ...(texts ? marked(words(value), words(first)) : [words(value)]),
      );
    }),
  );
}

function part(title, keys, chosen, fold) {
  if (!keys.length) return [];
  const rows = h(
    "tbody",
    { hidden: fold && !closable[fold], "data-part": title },
    ...keys.map((key) => row(key, chosen)),
  );
  const toggle =
    fold &&
    button(
      closable[fold] ? "Hide" : "Show",
      (event) => {
        closable[fold] = !closable[fold];
        rows.hidden = !closable[fold];
        event.target.textContent = closable[fold] ? "Hide" : "Show";
        event.target.setAttribute("aria-expanded", String(closable[fold]));
      },
      { "aria-expanded": String(closable[fold]), "aria-label": `Show: ${title}` },
    );
  const head = h(
    "th",
    { scope: "rowgroup", colspan: chosen.length + 1 },
    fold ? `${title} (${keys.length})` : title,
  );
  if (toggle) head.append(toggle);
  return [h("tbody", { class: "title" }, h("tr", null, head)), rows];
}

/** Result's settings as table parts: what differs, what was found, what is alike, circumstances. */
function facts(chosen) {
  const keys = keysOf(chosen);
  const settings = keys.filter((key) => !isCircumstance(key));
  const found = keys.filter((key) => /^found\b/.test(data.keys[key]));
  const rest = keys.filter((key) => isCircumstance(key) && !found.includes(key));
  if (chosen.length === 1) {
    return [
      ...part(
        "Settings",
        settings.filter((key) => !isLong(key)),
        chosen,
      ),
      ...part("Found", found, chosen),
      ...part(
        "Weights, inputs, versions",
        [...settings.filter(isLong), ...rest],
        chosen,
        "circumstances",
      ),
    ];
  }
  const differs = (key) => chosen.some((one) => at(one, key) !== at(chosen[0], key));
  const differing = settings.filter(differs);
  const none = h(
    "tbody",
    { class: "title" },
    h("tr", null, h("th", { colspan: chosen.length + 1 }, "No setting differs")),
  );
  return [
    ...(differing.length ? part("Settings that differ", differing, chosen) : [none]),
    ...part("Found", found, chosen),
    ...part(
      "Settings alike",
      settings.filter((key) => !differs(key)),
      chosen,
      "same",
    ),
    ...part("Circumstances", rest, chosen, "circumstances"),
  ];
}

function lookAtOne(one) {
  const parts = (setting(one, "of") || "").split(", ").filter((id) => byId.has(id));
  $("sight").replaceChildren(
    h(
      "div",
      { class: "one" },
      sight(one),
      h(
        "div",
        null,
        h("p", { class: "what" }, one.title),
        links(one),
        one.note ? h("p", { class: "note" }, one.note) : null,
        parts.length > 1
          ? button(`Compare the ${parts.length} it was made of`, () =>
              set({ picks: parts, view: "compare" }),
            )
          : null,
        h("table", { class: "facts" }, ...facts([one])),
      ),
    ),
  );
}

function lookAtMany(chosen) {
  const head = chosen.map((one, i) =>
    h(
      "th",
      { scope: "col", "data-id": one.id },
      sight(one, i ? chosen[0].text : undefined),
      h(
        "p",
        { class: "what" },
        h("span", { class: "order", "aria-hidden": "true" }, `${i + 1}`),
        one.title,
      ),
      links(one, one.kind),
      one.note ? h("p", { class: "note" }, one.note) : null,
      h(
        "p",
        { class: "links" },
        i
          ? button("Compare to this", () =>
              set({ picks: [one.id, ...state.picks.filter((id) => id !== one.id)] }),
            )
          : null,
        button("Remove", () => pick(one.id)),
      ),
    ),
  );
  const table = h(
    "table",
    { class: "facts many" },
    h("thead", null, h("tr", null, h("td"), ...head)),
    ...facts(chosen),
  );
  table.style.setProperty("--count", chosen.length);
  $("sight").replaceChildren(table);
}

/** Show, change or close the dialog, as the state has it. */
function showLook() {
  const one = byId.get(state.view);
  const chosen = state.picks.map((id) => byId.get(id));
  const many = state.view === "compare" && chosen.length > 0;
  if (!one && !many) {
    if (look.open) look.close();
    return;
  }
  const what = many ? `compare ${state.picks.join("\n")}` : state.view;
  if (look.dataset.what !== what || !look.open) {
    led.clear();
    if (many) lookAtMany(chosen);
    else lookAtOne(one);
    $("sight").scrollTop = 0;
  }
  look.dataset.what = what;
  $("look-title").textContent = many
    ? `${chosen.length} results side by side`
    : `${setting(one, "mode")}, ` +
      (matching.includes(one)
        ? `${matching.indexOf(one) + 1} of ${matching.length}`
        : "filtered out");
  for (const id of ["back", "forth", "pick"]) $(id).hidden = many;
  if (one) {
    const place = matching.indexOf(one);
    $("back").disabled = place < 1;
    $("forth").disabled = place < 0 || place > matching.length - 2;
    $("pick").textContent = state.picks.includes(one.id) ? "Picked" : "Pick";
    $("pick").setAttribute("aria-pressed", String(state.picks.includes(one.id)));
  }
  if (!look.open) {
    look.showModal();
    $("sight").focus();
  }
  zoomFrames();
}

/** To the neighbour in the list of a result that is looked at. */
function walk(by) {
  const next = matching[matching.findIndex((one) => one.id === state.view) + by];
  if (!next || state.view === "compare") return;
  current = next.id;
  set({ view: next.id });
}
