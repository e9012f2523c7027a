"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const C = data.classes.length, BINS = 15, N = sum(data.tested);
const normalised = (values) => { const total = sum(values); return values.map((value) => value / total); };
const rank = data.train.map((_, k) => k).sort((a, b) => data.train[b] - data.train[a] || a - b);
const place = []; rank.forEach((k, j) => { place[k] = j; });
const even = new Array(C).fill(1 / C);

// Samples stand class after class: those of class y from begin[y] to begin[y + 1].
const begin = [0];
for (const n of data.tested) begin.push(begin[begin.length - 1] + n);

const runs = data.runs.map((run) => {
  const text = atob(run.logits), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const levels = new Uint16Array(bytes.length / 2);
  for (let i = 0; i < levels.length; i++) levels[i] = bytes[2 * i] | (bytes[2 * i + 1] << 8);
  run.logits = null;
  return { ...run, levels, powers: null, temperature: NaN };
});

// --- What is computed ------------------------------------------------------------------------------------------------

const MIXES = { test: ["as in the test set", () => normalised(data.test)] };
if (sum(data.train) > 0) MIXES.train = ["as in training", () => normalised(data.train)];
MIXES.uniform = ["every class alike", () => even];
for (const [name, way] of [["forward", (j) => j], ["backward", (j) => C - 1 - j]])
  for (const ratio of [2, 5, 10, 25, 50])
    MIXES[name + ratio] = [`${name} ${ratio}`, () => normalised(place.map((j) => ratio ** (-way(j) / C)))];

// exp of minus each distance: with few levels a table, so that a logit costs a product and no exponential.
function powersOf(run, temperature) {
  if (run.temperature !== temperature) {
    run.powers = run.powers || new Float64Array(65536);
    for (let level = 0; level < 65536; level++) run.powers[level] = Math.exp(-level * run.step / temperature);
    run.temperature = temperature;
  }
  return run.powers;
}

// One pass over a run's logits. The factor of a class is (share where it is used / share that is expected) ** strength.
function score(run, factors, temperature) {
  const powers = powersOf(run, temperature), levels = run.levels;
  const predicted = new Uint16Array(N), right = new Float64Array(C);
  const [hits, confidence, samples] = [0, 1, 2].map(() => new Float64Array(C * BINS));
  let next = 0;
  for (let y = 0; y < C; y++) {
    for (let i = begin[y]; i < begin[y + 1]; i++) {
      let total = 0, most = -1, best = 0;
      for (let c = 0; c < C; c++) {
        const value = powers[levels[next++]] * factors[c];
        total += value;
        if (value > most) { most = value; best = c; }
      }
      const top = most / total, bin = y * BINS + Math.min(BINS - 1, Math.max(0, Math.ceil(top * BINS) - 1));
      predicted[i] = best;
      samples[bin] += 1;
      confidence[bin] += top;
      if (best === y) { right[y] += 1; hits[bin] += 1; }
    }
  }
  return { predicted, right, hits, confidence, samples };
}

function weightsOf(mix) {  // of a class without test samples nothing is known: the mix is that of the others
  const known = sum(mix.map((share, y) => data.tested[y] ? share : 0));
  return mix.map((share, y) => data.tested[y] ? share / known : 0);
}

function summary(found, weights) {
  const recall = data.tested.map((n, y) => n ? found.right[y] / n : NaN);
  const mean = (classes) => {
    const tested = classes.filter((y) => data.tested[y]);
    return tested.length ? sum(tested.map((y) => recall[y])) / tested.length : NaN;
  };
  let top1 = 0, variance = 0;
  const bins = Array.from({ length: BINS }, () => ({ weight: 0, hits: 0, confidence: 0 }));
  data.tested.forEach((n, y) => {
    if (!n) return;
    const p = (found.right[y] + 1) / (n + 2);
    top1 += weights[y] * recall[y];
    variance += weights[y] ** 2 * p * (1 - p) / n;
    for (let b = 0; b < BINS; b++) {
      bins[b].weight += weights[y] / n * found.samples[y * BINS + b];
      bins[b].hits += weights[y] / n * found.hits[y * BINS + b];
      bins[b].confidence += weights[y] / n * found.confidence[y * BINS + b];
    }
  });
  const values = { top1, noise: Math.sqrt(variance), balanced: mean(rank) };
  for (const [name, members] of Object.entries(data.groups)) values[name] = mean(members);
  values.ece = sum(bins.map((bin) => Math.abs(bin.hits - bin.confidence)));
  return { values, recall, bins };
}

// What the same samples gain, and the standard error of that: they are won (1), lost (-1) or neither.
function gainOf(before, after, weights) {
  let gain = 0, variance = 0;
  for (let y = 0; y < C; y++) {
    const n = data.tested[y];
    let won = 0, lost = 0;
    for (let i = begin[y]; i < begin[y + 1]; i++) {
      won += before[i] !== y && after[i] === y;
      lost += before[i] === y && after[i] !== y;
    }
    if (!n) continue;
    gain += weights[y] * (won - lost) / n;
    variance += weights[y] ** 2 * ((won + lost) / n - ((won - lost) / n) ** 2) / n;
  }
  return [gain, Math.sqrt(variance)];
}

const trained = data.train.every((count) => count > 0) ? normalised(data.train) : null;
const expected = (run) => ({ recorded: run.prior, train: trained, uniform: even })[state.from];
const isCorrected = (run) => state.correct && Boolean(expected(run));

function factorsOf(run) {
  if (!isCorrected(run)) return new Float64Array(C).fill(1);
  const source = expected(run), factors = state.mix.map((share, c) => (share / source[c]) ** state.strength);
  const most = Math.max(...factors);
  return Float64Array.from(factors, (factor) => factor / most);
}

// --- What is chosen, and the address that keeps it -------------------------------------------------------------------

const DEFAULTS = { word: "test", mix: MIXES.test[1](), correct: true, strength: 1, from: "recorded", temperature: 1 };
let state = { ...DEFAULTS };

function choose(word) { state.word = word; state.mix = MIXES[word][1]().slice(); }

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), mix = given.get("mix") || "";
  state = { ...DEFAULTS };
  const shares = mix.split(",").map(Number);
  if (Object.hasOwn(MIXES, mix)) choose(mix);
  else if (shares.length === C && isMix(shares)) { state.word = "own"; state.mix = normalised(shares); }
  for (const name of ["strength", "temperature"]) {
    const value = parseFloat(given.get(name));
    if (value >= Number(at(name).min) && value <= Number(at(name).max)) state[name] = value;
  }
  state.correct = given.get("correct") !== "off";
  if (["recorded", "train", "uniform"].includes(given.get("from"))) state.from = given.get("from");
}

function writeAddress() {
  const rounded = (share) => String(Number(share.toPrecision(4)));
  const mix = state.word === "own" ? state.mix.map(rounded).join(",") : state.word;
  const words = [`mix=${mix}`, `strength=${state.strength}`];
  if (!state.correct) words.push("correct=off");
  if (state.from !== DEFAULTS.from) words.push(`from=${state.from}`);
  if (state.temperature !== 1) words.push(`temperature=${state.temperature}`);
  history.replaceState(null, "", `#${words.join("&")}`);
}

const isMix = (shares) => shares.every((share) => share >= 0 && share < Infinity) && sum(shares) > 0;

// Give some classes together a share; all others have the rest. Within both, shares keep their proportions to one
// another, or get back the last ones that they had.
const last = even.slice();
function setShare(members, share) {
  const inside = new Set(members), others = rank.filter((y) => !inside.has(y)), mix = state.mix.slice();
  if (!others.length) return;
  mix.forEach((old, y) => { if (old > 1e-12) last[y] = old; });
  for (const [classes, part] of [[members, share], [others, 1 - share]]) {
    const shares = classes.some((y) => state.mix[y] > 1e-12) ? state.mix : last;
    const total = sum(classes.map((y) => shares[y]));
    for (const y of classes) mix[y] = part * shares[y] / total;
  }
  state.mix = normalised(mix);
  state.word = "own";
}

const unquoted = (cell) => cell.trim().replace(/^"(.*)"$/, (_, inner) => inner.replaceAll('""', '"')).trim();
const isNumber = (word) => /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?%?$/i.test(word);
const toNumber = (word) => Number(word.replace("%", ""));

function readList(text) {
  const names = data.classes.map((name) => name.normalize("NFC").trim());
  const lines = text.normalize("NFC").split(/\r?\n/).map((line, k) => [line.trim().replace(/\s+%/g, "%"), k + 1])
    .filter(([line]) => line);
  const begins = (line, name) => line.startsWith(name) && /^("|[\s,;:=]|$)/.test(line.slice(name.length));
  const isHeading = (line) => !/\d/.test(line) && !names.some((name) => begins(line.replace(/^"/, ""), name));
  if (lines.length > 1 && isHeading(lines[0][0])) lines.shift();
  const words = lines.flatMap(([line]) => line.split(/[\s,;]+/)).filter(Boolean).map(unquoted);
  const comma = "Write decimals with a point, such as 0.5.";
  let shares;
  if (words.length && words.every(isNumber) && !(lines.length > 1 && words.length === 2 * lines.length)) {
    if (lines.some(([line]) => /\d,\d+%?\s*;/.test(line))) throw comma;
    shares = words.map(toNumber);
    if (shares.length !== C) throw `The list has ${shares.length} numbers, but there are ${C} classes.`;
  } else {
    const places = new Map(names.map((name, y) => [name, y]));
    if (places.size < C) throw "Some classes share a name: write a number for each class, in their order.";
    shares = new Array(C).fill(0);
    const seen = new Set();
    for (const [line, k] of lines) {
      const parts = /^(.*?)[\s,;:=]+("?)([^\s,;:="]+)\2$/.exec(line), name = parts && unquoted(parts[1]);
      if (!parts || !isNumber(parts[3])) throw `Line ${k}, “${line}”, is no name and number.`;
      if (!places.has(name)) throw /\d,\d+%?"?$/.test(line) ? `Line ${k}, “${line}”: ${comma}`
        : `Line ${k}: there is no class “${name}”. One is “${data.classes[0]}”.`;
      if (seen.has(name)) throw `“${name}” is there twice.`;
      seen.add(name);
      shares[places.get(name)] = toNumber(parts[3]);
    }
  }
  if (!isMix(shares)) throw "Shares must be numbers from 0 that are not all 0.";
  return normalised(shares);
}

// --- What is shown ---------------------------------------------------------------------------------------------------

const escaped = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
function tag(name, attributes, ...content) {
  const given = Object.entries(attributes).map(([key, value]) => ` ${key}="${escaped(value)}"`);
  return `<${name}${given.join("")}>${content.join("")}</${name}>`;
}
const percent = (value, digits = 1) =>
  isNaN(value) ? "–" : (100 * value).toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
const signed = (value, digits = 1) => {
  const text = percent(value, digits);
  return text === "–" ? text : text.startsWith("-") ? text.replace("-", "−") : `+${text}`;
};
const short = (name, length = 14) => name.length > length ? `${name.slice(0, length - 1).trim()}…` : name;
const runColour = (k) => `var(--run${k % 7})`;
const runName = (k) => tag("span", { class: "run", style: `--run:${runColour(k)}` }) + escaped(runs[k].name);
const groups = Object.keys(data.groups);
const groupOf = [];
for (const name of groups) for (const y of data.groups[name]) groupOf[y] = name;

const number = (...content) => tag("td", { class: "n" }, ...content);
function table(heads, rows, attributes = {}) {
  const head = heads.map((text, k) => tag("th", { scope: "col", class: k ? "n" : "" }, text));
  return tag("table", attributes, tag("thead", {}, tag("tr", {}, ...head)), tag("tbody", {}, ...rows));
}

let widths = new Map();  // to ask for one makes the browser lay the page out
function picture(box, height, label, draw) {
  if (!widths.has(box)) widths.set(box, Math.max(box.clientWidth - 2, 200));
  const width = widths.get(box);
  const attributes = { role: "img", "aria-label": label, height, viewBox: `0 0 ${width} ${height}` };
  box.innerHTML = tag("svg", attributes, draw(width, height));
}
const text = (x, y, anchor, content, style = "") => tag("text", { x, y, "text-anchor": anchor, style }, content);
const line = (d, stroke, dash = "") => tag("path", { d, stroke, "stroke-dasharray": dash });

function panels(id, draw) {
  const box = at(id);
  if (box.childElementCount !== runs.length)
    box.innerHTML = runs.map((_, k) => tag("figure", {}, tag("h3", {}, runName(k)), "<div></div>")).join("");
  runs.forEach((_, k) => draw(box.children[k].lastElementChild, k));
}

function showHeadline(results) {
  const card = (k) => ({ class: "card", style: `--run:${runColour(k)}` });
  at("headline").innerHTML = results.map(({ now, then }, k) => tag("dl", card(k),
    tag("dt", { title: runs[k].name }, escaped(runs[k].name)),
    tag("dd", {}, `${percent(now.values.top1)} %`, tag("span", {}, `± ${percent(now.values.noise)}`)),
    tag("small", {}, `as trained ${percent(then.values.top1)}`))).join("");
}

function showNumbers(results) {
  const titles = { top1: "right under this mix", ece: "ECE" };
  const marks = (k, state, metric, value) =>
    ({ "data-run": k, "data-state": state, "data-metric": metric, "data-value": value });
  const row = (k, state, words, values, gain) => {
    const cell = (metric, value, ...shown) =>
      tag("td", { class: "n", "data-head": titles[metric] || metric, ...marks(k, state, metric, value) }, ...shown);
    const noisy = (metric, noise, value, error, shown) =>
      cell(metric, value, `${shown} ± `, tag("span", marks(k, state, noise, error), percent(error)));
    return tag("tr", {}, tag("th", { scope: "row" }, runName(k), tag("small", {}, words)),
      noisy("top1", "noise", values.top1, values.noise, percent(values.top1)),
      gain ? noisy("gain", "gain_noise", ...gain, signed(gain[0])) : number(),
      ...["balanced", ...groups, "ece"].map((metric) => cell(metric, values[metric], percent(values[metric]))));
  };
  const heads = ["run", titles.top1, "gain", "balanced", ...groups, titles.ece];
  at("numbers").innerHTML = table(heads, results.map((found, k) => {
    const words = isCorrected(runs[k]) ? "corrected" : state.correct ? "what it expects is unknown" : "not corrected";
    return row(k, "then", "as trained", found.then.values) + row(k, "now", words, found.now.values, found.gain);
  }));
}

function showClasses(results) {
  const named = C <= 20, letters = named ? Math.max(...data.classes.map((name) => short(name).length)) : 0;
  const right = 8, top = 20, foot = named ? 20 + 6 * letters : 34;
  const label = results.map(({ now }, k) =>
    `${runs[k].name}: ${groups.map((name) => `${name}-shot ${percent(now.values[name])} %`).join(", ")}`).join("; ");
  picture(at("classes"), 230 + foot, `Accuracy of every class. ${label}.`, (width, height) => {
    const bottom = height - foot, end = width - right;
    // Slanted names reach to the left of their place, by 5 pixels a letter.
    const beyond = rank.map((c, j) => 5 * short(data.classes[c]).length - (j + 0.5) * (end - 60) / C);
    const left = named ? Math.max(38, ...beyond) : 38;
    const x = (j) => left + (j + 0.5) * (end - left) / C, y = (value) => top + (1 - value) * (bottom - top);
    const parts = [];
    for (const name of groups) {
      const places = data.groups[name].map((c) => place[c]);
      const from = x(Math.min(...places) - 0.5), to = x(Math.max(...places) + 0.5), fill = `var(--${name})`;
      parts.push(tag("rect", { x: from, y: top, width: to - from, height: bottom - top, fill, opacity: 0.1 }));
      if (to - from > 6.5 * name.length) parts.push(text((from + to) / 2, 14, "middle", name, `fill:${fill}`));
    }
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(line(`M${left} ${y(value)}H${end}`, "var(--line)"));
      parts.push(text(left - 5, y(value) + 4, "end", `${100 * value}${value === 1 ? "%" : ""}`));
    }
    results.forEach(({ now, then }, k) => {
      for (const [recall, dash, opacity] of [[then.recall, "3 3", 0.6], [now.recall, "", 1]]) {
        const tested = rank.map((c, j) => [x(j), y(recall[c])]).filter(([, height]) => !isNaN(height));
        const points = tested.map((point) => point.map((value) => value.toFixed(1)).join()).join(" ");
        const style = `stroke:${runColour(k)}`;
        parts.push(tag("polyline",
          { points, fill: "none", style, "stroke-width": 1.8, "stroke-dasharray": dash, opacity }));
      }
    });
    if (named) rank.forEach((c, j) => {
      const transform = `translate(${x(j) + 4} ${bottom + 14}) rotate(-50)`;
      parts.push(tag("text", { "text-anchor": "end", transform }, escaped(short(data.classes[c]))));
    });
    else parts.push(text(left, bottom + 16, "start", 1), text(end, bottom + 16, "end", C),
      text((left + end) / 2, bottom + 30, "middle", "class, 1 = most training samples"));
    return parts.join("");
  });
  if (!at("listing").open) return;
  const names = runs.map((run) => `${escaped(run.name)} %`);
  const heads = ["class", "training samples", "test samples", "share %", ...names];
  const grouped = (count) => count.toLocaleString("en");
  const was = (share) => ` <small>(${percent(share)})</small>`;
  at("table").innerHTML = table(heads, rank.map((c) => tag("tr", {},
    tag("th", { scope: "row" }, escaped(data.classes[c])),
    number(grouped(data.train[c])), number(grouped(data.test[c])), number(percent(state.mix[c], 2)),
    ...results.map(({ now, then }) => number(percent(now.recall[c]), was(then.recall[c]))))));
}

function showReliability(results) {
  panels("reliability", (box, k) => {
    const { bins, values } = results[k].now, most = Math.max(...bins.map((bin) => bin.weight));
    picture(box, 200, `Reliability of ${runs[k].name}: ECE ${percent(values.ece)} %.`, (width, height) => {
      const left = 34, end = width - 6, top = 8, bottom = height - 34;
      const x = (value) => left + value * (end - left), y = (value) => top + (1 - value) * (bottom - top);
      const parts = [];
      for (const value of [0, 0.5, 1]) {
        const anchor = value === 1 ? "end" : "middle", unit = value === 1 ? "%" : "";
        parts.push(line(`M${left} ${y(value)}H${end}`, "var(--line)"));
        parts.push(text(left - 5, y(value) + 4, "end", 100 * value));
        parts.push(text(x(value), bottom + 15, anchor, `${100 * value}${unit}`));
      }
      bins.forEach((bin, b) => {
        if (!(bin.weight > 0)) return;
        const right = bin.hits / bin.weight, opacity = 0.2 + 0.8 * Math.sqrt(bin.weight / most);
        const words = `confidence ${percent(bin.confidence / bin.weight)} %, right ${percent(right)} %, `
          + `${percent(bin.weight)} % of the samples`;
        parts.push(tag("rect", { x: x(b / BINS) + 0.5, y: y(right), width: x(1 / BINS) - x(0) - 1,
          height: bottom - y(right), fill: "var(--accent)", opacity }, tag("title", {}, words)));
      });
      parts.push(line(`M${x(0)} ${y(0)}L${x(1)} ${y(1)}`, "var(--text)", "4 4"));
      parts.push(text(left + 6, 22, "start", `ECE ${percent(values.ece)} %`, "fill:var(--text)"));
      parts.push(text((left + end) / 2, height - 4, "middle", "confidence"));
      return parts.join("");
    });
  });
}

function counted(predicted) {  // [true, predicted], samples
  const counts = new Int32Array(C * C);
  for (let y = 0; y < C; y++) for (let i = begin[y]; i < begin[y + 1]; i++) counts[y * C + predicted[i]] += 1;
  return counts;
}

function matrix(names, shares, before, caption) {
  const change = at("change").checked;
  const cell = (now, then) => {
    const value = change ? now - then : now, strength = Math.min(0.9, Math.abs(value) * (change ? 2 : 0.8));
    const shown = !change ? percent(value, 0) : Math.abs(value) < 0.005 ? "·" : signed(value, 0);
    return tag("td", { class: value < 0 ? "down" : "up", style: `--a:${(strength || 0).toFixed(2)}` }, shown);
  };
  const head = names.map((name) => tag("th", { scope: "col", title: name }, tag("span", {}, escaped(short(name, 15)))));
  const rows = names.map((name, a) => tag("tr", {}, tag("th", { scope: "row", title: name }, escaped(name)),
    ...names.map((_, b) => cell(shares[a][b], before[a][b]))));
  return tag("div", { class: "scroll" }, tag("table", { class: "confusion" },
    tag("caption", { class: "unseen" }, escaped(caption)),
    tag("thead", {}, tag("tr", {}, "<td></td>", ...head)), tag("tbody", {}, ...rows)));
}

function showConfusions(results, weights) {
  panels("confusions", (box, k) => {
    const now = counted(results[k].found.predicted), then = counted(base[k].predicted);
    const caption = `Confusions of ${runs[k].name}`;
    if (C <= 20) {
      const shares = (counts) => rank.map((y) => rank.map((c) => counts[y * C + c] / data.tested[y]));
      box.innerHTML = matrix(rank.map((y) => data.classes[y]), shares(now), shares(then), caption);
      return;
    }
    const shares = (counts) => groups.map((a) => groups.map((b) => {
      const tested = data.groups[a].filter((y) => data.tested[y]);
      return sum(tested.map((y) => sum(data.groups[b].map((c) => counts[y * C + c])) / data.tested[y])) / tested.length;
    }));
    const pairs = [];
    for (let y = 0; y < C; y++) for (let c = 0; c < C; c++)
      if (c !== y && now[y * C + c]) pairs.push([weights[y] * now[y * C + c] / data.tested[y], y, c]);
    pairs.sort((a, b) => b[0] - a[0]);
    const heads = ["most of all samples", "taken for", "of the class %", "of all %"];
    const rows = pairs.slice(0, 8).map(([share, y, c]) => {
      const [after, before] = [now, then].map((counts) => percent(counts[y * C + c] / data.tested[y], 0));
      return tag("tr", {}, tag("th", { scope: "row" }, escaped(data.classes[y])), number(escaped(data.classes[c])),
        number(after, ` <small>(${before})</small>`), number(percent(share, 2)));
    });
    box.innerHTML = matrix(groups, shares(now), shares(then), caption)
      + tag("div", { class: "scroll pairs" }, table(heads, rows));
  });
}

const sizes = { many: "more than 100", medium: "20 to 100", few: "fewer than 20" };
const moved = groups.filter((name) => groups.length > 1 && (data.groups[name].length > 1 || C > 12));
const sliders = moved.map((name) => [`${name}-shot`, data.groups[name], `${sizes[name]} training samples`]);
at("shots").innerHTML = moved.map((name) => {
  const size = data.groups[name].length;
  return `${name}-shot: ${size === 1 ? "the class" : `the ${size} classes`} with ${sizes[name]} training samples`;
}).join("<br>");
at("shots").hidden = !moved.length;
if (C <= 12) sliders.push(...rank.map((y) => [data.classes[y], [y], data.classes[y]]));
at("sliders").innerHTML = sliders.map(([name, , title], k) => tag("div", { class: "slider" },
  tag("label", { for: `slider${k}`, title }, escaped(name)),
  `<input type="range" id="slider${k}" min="0" max="100" step="0.1">`, "<output></output>")).join("");
at("preset").innerHTML = [...Object.entries(MIXES), ["own", ["your own"]]]
  .map(([word, [words]]) => tag("option", { value: word }, words)).join("");

let dragged = null, ceiling = 1;  // the largest share of the bars: it stays while one is dragged
function showControls() {
  at("preset").value = state.word;
  sliders.forEach(([, members], k) => {
    const share = sum(members.map((y) => state.mix[y])), slider = at(`slider${k}`), words = `${percent(share)} %`;
    if (Math.abs(slider.value - 100 * share) > 0.06) slider.value = 100 * share;
    slider.setAttribute("aria-valuetext", words);
    slider.nextElementSibling.textContent = words;
  });
  at("correct").checked = state.correct;
  at("from").value = state.from;
  for (const name of ["strength", "temperature"]) {
    at(name).value = state[name];
    at(`${name}_now`).textContent = state[name].toFixed(2);
  }
  at("strength").disabled = at("from").disabled = !state.correct;
  if (!at("bars").parentElement.open) return;
  const most = Math.max(...state.mix);
  if (dragged === null) ceiling = most * 1.5;
  const label = `Share of every class, from most training samples to fewest; the largest is ${percent(most)} %.`;
  picture(at("bars"), 110, label, (width, height) => rank.map((y, j) => {
    const tall = Math.max(1, state.mix[y] / ceiling * (height - 2)), step = width / C;
    const bar = { x: j * step, y: height - tall, width: step > 4 ? step - 1 : step, height: tall };
    const title = tag("title", {}, escaped(`${data.classes[y]}: ${percent(state.mix[y], 2)} %`));
    return tag("rect", { ...bar, fill: `var(--${groupOf[y]})` }, title);
  }).join(""));
}

// --- Together --------------------------------------------------------------------------------------------------------

const ones = new Float64Array(C).fill(1);
const base = runs.map((run) => score(run, ones, 1));
let waiting = 0, pause = 0;

function update() {
  const start = performance.now(), weights = weightsOf(state.mix);
  const results = runs.map((run, k) => {
    const found = score(run, factorsOf(run), state.temperature);
    const gain = gainOf(base[k].predicted, found.predicted, weights);
    return { found, gain, now: summary(found, weights), then: summary(base[k], weights) };
  });
  const computed = performance.now();
  showControls();
  showHeadline(results);
  showNumbers(results);
  showClasses(results);
  showReliability(results);
  showConfusions(results, weights);
  document.body.dataset.computed = (computed - start).toFixed(1);
  document.body.dataset.milliseconds = (performance.now() - start).toFixed(1);
  clearTimeout(pause);  // what is moved is written and said when it rests
  pause = setTimeout(() => {
    writeAddress();
    at("status").textContent = results.map(({ now, then }, k) =>
      `${runs[k].name}: ${percent(now.values.top1)} % right, ${percent(then.values.top1)} % as trained.`).join(" ");
  }, 300);
}

function schedule() { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; update(); }); }

at("preset").onchange = () => { if (at("preset").value !== "own") choose(at("preset").value); update(); };
sliders.forEach(([, members], k) => {
  at(`slider${k}`).oninput = (event) => { setShare(members, event.target.value / 100); schedule(); };
});
at("correct").onchange = () => { state.correct = at("correct").checked; update(); };
at("from").onchange = () => { state.from = at("from").value; update(); };
for (const name of ["strength", "temperature"])
  at(name).oninput = () => { state[name] = Number(at(name).value); schedule(); };
at("reset").onclick = () => { state = { ...DEFAULTS }; update(); };
at("change").onchange = update;
at("take").onclick = () => {
  let fault = "";
  try {
    state.mix = readList(at("list").value);
    state.word = "own";
    const absent = data.classes.filter((_, y) => !state.mix[y]);
    if (absent.length) fault = absent.length === 1 ? `Taken. The class “${absent[0]}” does not occur there.`
      : `Taken. Of the ${C} classes ${absent.length} do not occur there, such as “${absent[0]}”.`;
  } catch (error) { if (typeof error !== "string") throw error; fault = error; }
  at("fault").textContent = fault;
  at("fault").hidden = !fault;
  update();
};
at("file").onchange = async () => {
  if (!at("file").files.length) return;
  at("list").value = await at("file").files[0].text();
  at("take").click();
};
at("controls").onsubmit = (event) => event.preventDefault();

let held = 0;
function drag(event) {
  const box = at("bars").getBoundingClientRect(), j = Math.floor((event.clientX - box.left) / box.width * C);
  if (event.type === "pointerdown") held = rank[Math.max(0, Math.min(C - 1, j))];
  setShare([held], Math.max(0, Math.min(1, (1 - (event.clientY - box.top) / box.height) * ceiling)));
  schedule();
}
at("bars").onpointerdown = (event) => {
  dragged = event.pointerId;
  at("bars").setPointerCapture(dragged);
  drag(event);
};
at("bars").onpointermove = (event) => { if (dragged !== null) drag(event); };
at("bars").onpointerup = at("bars").onpointercancel = () => { dragged = null; schedule(); };

onhashchange = () => { readAddress(); update(); };
at("listing").ontoggle = at("bars").parentElement.ontoggle = onresize = () => { widths = new Map(); schedule(); };
readAddress();
update();
})();
