// The sweep's page: draws the curves, compares two rows, plays episodes.

// --- curves ----------------------------------------------------------------------------------------------------------

const shown = choices(find("#methods"), data);
const curves = curvesOf(data);

let views = [];
const draw = async () => {
  const chosen = find("#chart-dataset").value;
  const names = chosen ? [chosen] : datasets;
  const charts = find("#charts");
  views.forEach((view) => view.finalize());
  charts.replaceChildren();
  charts.classList.toggle("one", names.length === 1);
  views = await Promise.all(
    names.map((name) => {
      const place = element("div", { className: "chart" });
      charts.append(element("div", {}, element("h4", {}, name), place));
      const spec = structuredClone(curves);
      spec.description = `Accuracy against tokens on ${name}`;
      spec.data = { values: data.points.filter((point) => point.dataset === name) };
      spec.params[0].value = shown();
      if (names.length > 1) spec.layer.splice(0, 1); // bands would fill small charts
      return chart(place, spec, `curves of ${name}`, "curves");
    }),
  );
};
const datasets = [...new Set(data.points.map((point) => point.dataset))];
offer(find("#chart-dataset"), [["", "all"], ...datasets.map((name) => [name, name])]);
find("#chart-dataset").addEventListener("input", draw);
find("#methods").addEventListener("input", () => views.forEach((view) => view.signal("shown", shown()).runAsync()));

// --- any two rows ----------------------------------------------------------------------------------------------------

const pair = find("#pair");
if (pair) {
  const { rows, datasets: differences } = data.differences;
  const offered = data.settings
    .map(([label, betas]) => [label, betas.filter(([row]) => rows.includes(row))])
    .filter(([, betas]) => betas.length);
  const show = () => {
    const [left, right] = ["left", "right"].map((side) => rows.indexOf(Number(find(`#${side}-beta`).value)));
    const [i, j] = left < right ? [left, right] : [right, left];
    const at = 6 * ((i * (2 * rows.length - i - 1)) / 2 + (j - i - 1)); // pairs in the order of their rows
    const signed = ([value, low, high]) => (left < right ? [value, low, high] : [-value, -high, -low]);
    const points = (number) => `${number < 0 ? "−" : "+"}${(Math.abs(number) / 100).toFixed(1)}`;
    const ratio = (number) => `×${Math.exp(number / 1000).toFixed(2)}`;
    const cell = ([value, low, high], text) =>
      element("td", {}, `${text(value)} `, element("small", {}, `${text(low)} – ${text(high)}`));
    pair.replaceChildren(
      ...Object.entries(differences).map(([name, numbers]) => {
        const head = element("td", { className: "text" }, name);
        if (i === j) return element("tr", {}, head, element("td", { colSpan: 2 }, "the same row"));
        const accuracy = cell(signed(numbers.slice(at, at + 3)), points);
        return element("tr", {}, head, accuracy, cell(signed(numbers.slice(at + 3, at + 6)), ratio));
      }),
    );
  };
  ["left", "right"].forEach((side, number) => {
    const [method, beta] = [find(`#${side}-method`), find(`#${side}-beta`)];
    const betas = () => {
      const before = beta.selectedOptions[0]?.text;
      offer(beta, offered[method.value][1]);
      const same = [...beta.options].findIndex(({ text }) => text === before);
      beta.selectedIndex = same >= 0 ? same : Math.floor(beta.options.length / 2);
    };
    offer(method, offered.map(([label], index) => [index, label]));
    method.value = number ? 0 : offered.length - 1;
    betas();
    method.addEventListener("input", () => (betas(), show()));
    beta.addEventListener("input", show);
  });
  show();
}

// --- episodes --------------------------------------------------------------------------------------------------------

const KINDS = ["PRUNE", "BRANCH", "CONTINUE", "PROBE", "ANSWER", "BRANCH, PROBE", "CONTINUE, PROBE"];
const [PRUNE, BRANCH, CONTINUE] = KINDS.keys();
// Okabe and Ito's palette without its yellow, which is too pale for lines.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const [RIGHT, OTHER] = ["#009E73", "#999999"]; // the right answer is green, and whatever has no colour grey
const slider = find("#round");
const [method, kind, which] = ["method", "kind", "which"].map((name) => find(`#episode-${name}`));
let episode;
let marks = []; // of the figure: [round, element]
let clock;

/** A new SVG element with attributes. */
const drawn = (name, attributes, text = "") => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.textContent = text;
  return made;
};

/** What a figure may fill; a window that is not laid out yet has no width. */
const widthOf = (svg) => Math.max(svg.clientWidth, 240);

const named = (answer) => (answer < 0 ? "none" : episode.answers[answer]);
const votes = (counts) => counts.map(([answer, count]) => `${named(answer)} × ${count}`).join(", ") || "none";

/** Colours of the right answer, of the given one, and of those with the most votes. */
const colours = () => {
  const total = new Map();
  for (const { votes } of episode.rounds)
    for (const [answer, count] of votes) total.set(answer, (total.get(answer) ?? 0) + count);
  const others = [...total.keys()].filter((answer) => answer !== episode.gold).sort((a, b) => total.get(b) - total.get(a));
  const order = [...new Set([episode.given, ...others])].filter((answer) => answer >= 0 && answer !== episode.gold);
  const free = COLOURS.filter((colour) => colour !== RIGHT).reverse();
  return new Map([[episode.gold, RIGHT], ...order.slice(0, free.length).map((answer, n) => [answer, free.at(-1 - n)])]);
};

/** The branches: a line each, cells for intervals, coloured by the newest answer. */
const drawPath = (colour) => {
  const svg = find("#path");
  const deepest = Math.max(...episode.rounds.flatMap(({ events }) => events.map(([, , depth]) => depth)), 1);
  const height = Math.min(16, Math.max(6, 320 / episode.branches.length));
  const line = new Map(episode.branches.map(([slot], number) => [slot, number]));
  const [width, left] = [widthOf(svg), 34];
  const step = (width - left - 10) / deepest;
  const bottom = height * episode.branches.length;
  svg.setAttribute("viewBox", `0 0 ${width} ${bottom + 18}`);
  svg.replaceChildren();
  marks = [];
  const put = (round, name, attributes) => {
    const made = drawn(name, attributes);
    svg.append(made);
    marks.push([round, made]);
  };
  episode.rounds.forEach(({ events }, round) => {
    for (const [what, slot, depth, answer] of events) {
      if (slot < 0) continue;
      const [x, y] = [left + (depth - 1) * step, line.get(slot) * height];
      const right = x + step;
      if (what === PRUNE) {
        const [half, middle] = [Math.min(4, height / 2 - 1), y + height / 2];
        const cross = `M${right - half},${middle - half}l${2 * half},${2 * half}m0,${-2 * half}l${-2 * half},${2 * half}`;
        put(round, "path", { d: cross, class: "mark", fill: "none" });
        continue;
      }
      const fill = answer < 0 ? "var(--line)" : colour.get(answer) ?? OTHER;
      put(round, "rect", { x, y: y + 0.5, width: step + 0.2, height: height - 1, style: `fill: ${fill}` });
      if (answer >= 0 && (what === BRANCH || what === CONTINUE))
        put(round, "path", { d: `M${right},${y + 0.5}v${height - 1}`, class: "mark" });
    }
  });
  const every = Math.ceil(14 / height);
  for (const [slot, number] of line)
    if (number % every === 0)
      svg.append(drawn("text", { x: left - 5, y: (number + 0.5) * height + 4, "text-anchor": "end" }, slot));
  for (const depth of new Set([1, Math.ceil(deepest / 2), deepest]))
    svg.append(drawn("text", { x: left + (depth - 0.5) * step, y: bottom + 14, "text-anchor": "middle" }, depth));
  // In front of later cells.
  svg.append(...marks.map(([, made]) => made).filter((made) => made.classList.contains("mark")));
};

/** Votes by answer after each round. */
const drawVotes = (colour) => {
  const svg = find("#votes");
  const [width, left, height] = [widthOf(svg), 34, 150];
  const last = episode.rounds.length - 1;
  const most = Math.max(1, ...episode.rounds.flatMap(({ votes, pool }) => [...votes, ...pool].map(([, count]) => count)));
  const x = (round) => left + ((width - left - 12) * round) / Math.max(last, 1);
  const y = (count) => 8 + (height - 8) * (1 - count / most);
  svg.setAttribute("viewBox", `0 0 ${width} ${height + 20}`);
  svg.replaceChildren();
  for (const count of new Set([0, Math.round(most / 2), most])) {
    svg.append(drawn("path", { d: `M${left},${y(count)}H${width - 12}`, class: "axis" }));
    svg.append(drawn("text", { x: left - 5, y: y(count) + 4, "text-anchor": "end" }, count));
  }
  for (const round of new Set([0, Math.round(last / 2), last]))
    svg.append(drawn("text", { x: x(round), y: height + 15, "text-anchor": "middle" }, round));
  const clip = drawn("clipPath", { id: "revealed" });
  clip.append(drawn("rect", { x: 0, y: 0, width: 0, height: height + 4 }));
  const curves = drawn("g", { "clip-path": "url(#revealed)" });
  for (const [answer, stroke] of colour)
    for (const [field, dash] of [["pool", "5 3"], ["votes", "none"]]) {
      const counts = episode.rounds.map((round) => round[field].find(([one]) => one === answer)?.[1] ?? 0);
      const points = counts.map((count, round) => `${x(round)},${y(count)}`);
      if (points.length === 1) points.push(`${x(1)},${y(counts[0])}`);
      const line = { points: points.join(" "), fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash };
      if (counts.some(Boolean)) curves.append(drawn("polyline", line));
    }
  svg.append(clip, curves, drawn("path", { d: `M0,4V${height}`, class: "now" }));
  svg.reveal = (round) => {
    find("rect", clip).setAttribute("width", x(round) + 1.5);
    find(".now", svg).setAttribute("transform", `translate(${x(round)})`);
  };
};

/** Shows the episode as it was after a round. */
const go = (round) => {
  const last = episode.rounds.length - 1;
  round = Math.min(Math.max(round, 0), last);
  slider.value = round;
  slider.setAttribute("aria-valuetext", `round ${round} of ${last}`);
  const moment = episode.rounds[round];
  const turns = episode.turns.filter(([at]) => at === round).map(([, text]) => text);
  const now = `Round ${round} of ${last}, ${whole(moment.tokens)} tokens; would answer ${named(moment.answer)}`;
  find("#now").textContent = [now, ...turns].join("; ") + ".";
  marks.forEach(([at, made]) => (made.style.visibility = at <= round ? "visible" : "hidden"));
  find("#votes").reveal(round);
  find("#votes").setAttribute("aria-label", `Votes after round ${round}: ${votes(moment.votes)}; finished: ${votes(moment.pool)}`);
  const open = episode.rounds.slice(0, round + 1).flatMap(({ events }) => events.filter(([what]) => KINDS[what].startsWith("BRANCH")));
  find("#path").setAttribute("aria-label", `Branches after round ${round}: ${open.length} opened. The events are listed under “This round”.`);
  find("#events").textContent = moment.events
    .map(([what, slot, depth, answer]) => {
      const about = slot < 0 ? "" : ` ${slot}, depth ${depth}`;
      return `${KINDS[what]}${about}${answer < 0 ? "" : ` → ${named(answer)}`}`;
    })
    .join("\n");
  const memory = Object.entries(moment.memory).map(([name, value]) => `${name}: ${value}`);
  find("#memory").textContent = [`votes: ${votes(moment.votes)}`, `finished: ${votes(moment.pool)}`, ...memory].join("\n");
  const current = episode.turns.filter(([at]) => at <= round).length - 1;
  all("#turns button").forEach((button, number) => {
    button.removeAttribute("aria-current");
    if (number !== current) return;
    button.setAttribute("aria-current", "step");
    const list = find("#turns");
    const top = button.offsetTop;
    if (top < list.scrollTop || top + button.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top;
  });
};

const pause = () => {
  clearInterval(clock);
  clock = undefined;
  find("[data-go=play]").textContent = "Play";
  find("[data-go=play]").setAttribute("aria-pressed", "false");
  find("#now").setAttribute("aria-live", "polite");
};

const play = () => {
  find("[data-go=play]").textContent = "Pause";
  find("[data-go=play]").setAttribute("aria-pressed", "true");
  find("#now").setAttribute("aria-live", "off"); // too many words to speak
  if (Number(slider.value) === episode.rounds.length - 1) go(0);
  clock = setInterval(() => {
    go(Number(slider.value) + 1);
    if (Number(slider.value) === episode.rounds.length - 1) pause();
  }, 500);
};

const redraw = () => {
  if (!episode || find("#player").hidden) return;
  const colour = colours();
  drawPath(colour);
  drawVotes(colour);
  go(Number(slider.value));
};

/** Opens an episode, at its end. */
const open = (number) => {
  pause();
  episode = data.episodes[number];
  find("#player").hidden = false;
  const last = episode.rounds.length - 1;
  const verdict = episode.correct ? "right" : `right would be ${named(episode.gold)}`;
  find("#episode-title").textContent =
    `${episode.dataset}, question ${episode.question}, shuffle ${episode.shuffle}: ${episode.method}, β ${episode.beta}, ` +
    `answers ${named(episode.given)} (${verdict})`;
  find("#episode-text").textContent = episode.text;
  slider.max = last;
  slider.value = last;
  find("#answers").replaceChildren(
    ...[...colours(), [-1, OTHER]].map(([answer, colour]) => {
      const swatch = element("i", { ariaHidden: "true" });
      swatch.style.background = colour;
      const text = answer < 0 ? "other answers" : named(answer) + (answer === episode.gold ? " (right)" : "");
      return element("span", { className: "key" }, swatch, text);
    }),
  );
  find("#turns").replaceChildren(
    ...episode.turns.map(([at, text, weighty]) => {
      const button = element("button", { type: "button", className: weighty ? "weighty" : "" }, `round ${at}: ${text}`);
      button.addEventListener("click", () => (pause(), go(at)));
      return element("li", {}, button);
    }),
  );
  redraw();
};

const steps = {
  first: () => go(0),
  before: (now) => go(episode.turns.map(([at]) => at).filter((at) => at < now).at(-1) ?? 0),
  back: (now) => go(now - 1),
  forward: (now) => go(now + 1),
  after: (now) => go(episode.turns.map(([at]) => at).find((at) => at > now) ?? episode.rounds.length - 1),
  last: () => go(episode.rounds.length - 1),
};
for (const button of all("[data-go]")) {
  button.addEventListener("click", () => {
    const playing = clock !== undefined;
    pause();
    if (button.dataset.go !== "play") steps[button.dataset.go](Number(slider.value));
    else if (!playing) play();
  });
}
slider.addEventListener("input", () => (pause(), go(Number(slider.value))));

const places = data.episodes.map((one, number) => ({ ...one, number }));
const listed = () => places.filter((one) => one.method === method.value && one.kind === kind.value);
const distinct = (values) => [...new Set(values)].map((value) => [value, value]);
const choose = () => {
  offer(kind, distinct(places.filter((one) => one.method === method.value).map((one) => one.kind)));
  offer(which, listed().map((one) => [one.number, `${one.dataset}, question ${one.question}, shuffle ${one.shuffle}`]));
  if (which.value !== "") open(Number(which.value));
};
offer(method, distinct(places.map((one) => one.method)));
[method, kind].forEach((select) => select.addEventListener("input", choose));
which.addEventListener("input", () => open(Number(which.value)));
for (const button of all(".opens")) {
  button.addEventListener("click", () => {
    method.value = button.dataset.method;
    choose();
    kind.value = button.dataset.kind;
    choose();
    find("#episodes-title").focus({ preventScroll: true });
    find("#episodes").scrollIntoView();
  });
}
choose();

let width = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width !== width) redraw();
  width = contentRect.width;
}).observe(find("#player"));

await draw();
