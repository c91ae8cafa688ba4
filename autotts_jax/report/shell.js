// What all pages share: tables are sorted and filtered, charts drawn. Text from data is only ever written as text.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (selector, inside = document) => inside.querySelector(selector);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const whole = (number) => number.toLocaleString("en");

/** A new HTML element with properties, and with children or texts inside. */
const element = (name, properties = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
};

/** Fills a <select> with [value, text] pairs; what was chosen stays chosen if it is still there. */
const offer = (select, options) => {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
};

// --- light or dark, print --------------------------------------------------------------------------------------------

find("#theme").addEventListener("click", () => {
  const style = document.documentElement.style;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  style.colorScheme = (style.colorScheme || system) === "dark" ? "light" : "dark";
});

const closed = [];
addEventListener("beforeprint", () => {
  for (const details of all("details:not([open])")) {
    if (details.closest(".vega-embed")) continue;
    closed.push(details);
    details.open = true;
  }
});
addEventListener("afterprint", () => closed.splice(0).forEach((details) => (details.open = false)));

// --- tables ----------------------------------------------------------------------------------------------------------

for (const place of all(".sortable")) {
  const heads = all("thead th", place);
  const body = find("tbody", place);
  const rows = all("tr", body);
  const column = (name) => heads.findIndex((head) => head.dataset.name === name);
  const value = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent;

  const filters = all(".filters select", place).map((select) => [select, column(select.dataset.column)]);
  const words = find("input[type=search]", place);
  const filter = () => {
    const wanted = words.value.toLowerCase();
    for (const row of rows) {
      const fits = filters.every(([select, at]) => !select.value || value(row, at) === select.value);
      row.hidden = !fits || !row.textContent.toLowerCase().includes(wanted);
    }
    find("output", place).textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  for (const [select, at] of filters) {
    const values = [...new Set(rows.map((row) => value(row, at)))];
    offer(select, [["", "all"], ...values.map((one) => [one, one])]);
    if (values.includes(select.dataset.start)) select.value = select.dataset.start;
    select.addEventListener("input", filter);
  }
  words.addEventListener("input", filter);
  filter();

  const compare = (a, b) => {
    const numbers = [Number(a), Number(b)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last
    return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
  };
  heads.forEach((head, at) => {
    find("button", head).addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => (down ? -1 : 1) * compare(value(a, at), value(b, at)));
      body.append(...rows);
    });
  });
}

// --- charts ----------------------------------------------------------------------------------------------------------

const DASHES = [[1, 0], [6, 2], [2, 2], [8, 2, 2, 2]];

/** A box for each method, with the sign that it has in charts; what is returned says which are chosen. */
const choices = (place, { labels, colours, shapes }, chosen = () => true) => {
  const boxes = labels.map((label, number) => {
    const box = element("input", { type: "checkbox", checked: chosen(label), value: label });
    const sign = element("span", { ariaHidden: "true" }, ` ${shapes[number][1]} `);
    sign.style.color = colours[number];
    place.append(element("label", {}, box, sign, label));
    return box;
  });
  return () => boxes.filter((box) => box.checked).map((box) => box.value);
};

/** The chart of curves, with each method's colour, dashes and sign. */
const curvesOf = ({ labels, colours, shapes }) => {
  const spec = structuredClone(data.curves);
  const [, lines, points] = spec.layer;
  spec.encoding.color.scale = { domain: labels, range: colours };
  lines.encoding.strokeDash.scale = { domain: labels, range: labels.map((_, number) => DASHES[number % DASHES.length]) };
  points.encoding.shape.scale = { domain: labels, range: shapes.map(([shape]) => shape) };
  return spec;
};

/** Draws a chart, which `name` describes in a few words. */
const chart = async (place, spec, name, file) => {
  const actions = { export: true, source: false, compiled: false, editor: false };
  const made = await vegaEmbed(place, spec, { actions, renderer: "svg", downloadFileName: file });
  find("summary", place)?.setAttribute("aria-label", `Save the ${name}`);
  return made.view;
};
