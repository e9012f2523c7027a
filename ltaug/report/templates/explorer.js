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
  const hits = new Float64Array(C * BINS), confidence = new Float64Array(C * BINS), samples = new Float64Array(C * BINS);
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

const expected = (run) => ({ recorded: run.prior, train: MIXES.train && MIXES.train[1](), uniform: even })[state.from];
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
  if (MIXES[mix]) choose(mix);
  else if (shares.length === C && isMix(shares)) { state.word = "own"; state.mix = normalised(shares); }
  for (const name of ["strength", "temperature"]) {
    const value = parseFloat(given.get(name));
    if (value >= Number(at(name).min) && value <= Number(at(name).max)) state[name] = value;
  }
  state.correct = given.get("correct") !== "off";
  if (["recorded", "train", "uniform"].includes(given.get("from"))) state.from = given.get("from");
}

function writeAddress() {
  const short = (share) => String(Number(share.toPrecision(4)));
  const words = [`mix=${state.word === "own" ? state.mix.map(short).join(",") : state.word}`, `strength=${state.strength}`];
  if (!state.correct) words.push("correct=off");
  if (state.from !== DEFAULTS.from) words.push(`from=${state.from}`);
  if (state.temperature !== 1) words.push(`temperature=${state.temperature}`);
  history.replaceState(null, "", `#${words.join("&")}`);
}

const isMix = (shares) => shares.every((share) => share >= 0 && share < Infinity) && sum(shares) > 0;

// Give some classes together a share; all others keep theirs to one another.
function setShare(members, share) {
  const inside = new Set(members), mix = state.mix;
  const own = sum(members.map((y) => mix[y])), others = 1 - own, count = C - members.length;
  if (!count) return;
  state.mix = mix.map((old, y) => inside.has(y)
    ? (own > 1e-12 ? old * share / own : share / members.length)
    : (others > 1e-12 ? old * (1 - share) / others : (1 - share) / count));
  state.word = "own";
}

function readList(text) {
  const lines = text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  const words = text.trim().split(/[\s,;]+/).filter(Boolean);
  let shares;
  if (words.length && words.every((word) => !isNaN(parseFloat(word)) && isFinite(word.replace("%", "")))
      && !(lines.length > 1 && words.length === 2 * lines.length)) {
    shares = words.map(parseFloat);
    if (shares.length !== C) throw `The list has ${shares.length} numbers, but there are ${C} classes.`;
  } else {
    const places = new Map(data.classes.map((name, y) => [name.normalize("NFC").trim(), y]));
    shares = new Array(C).fill(0);
    const seen = new Set();
    lines.forEach((line, k) => {
      const parts = /^(.*?)[\s,;:=]+([-+.\deE]+)\s*%?$/.exec(line);
      const name = parts && parts[1].trim().replace(/^"(.*)"$/, "$1").normalize("NFC");
      if (!parts && k === 0 && lines.length > 1) return;  // a heading
      if (!parts || isNaN(Number(parts[2]))) throw `Line ${k + 1}, “${line}”, is no name and number.`;
      if (!places.has(name)) throw `Line ${k + 1}: there is no class “${name}”. One is “${data.classes[0]}”.`;
      if (seen.has(name)) throw `“${name}” is there twice.`;
      seen.add(name);
      shares[places.get(name)] = Number(parts[2]);
    });
  }
  if (!isMix(shares)) throw "Shares must be numbers from 0 that are not all 0.";
  return normalised(shares);
}

// --- What is shown ---------------------------------------------------------------------------------------------------

const escaped = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
const percent = (value, digits = 1) => isNaN(value) ? "–" : (100 * value).toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
const signed = (value, digits = 1) => (percent(value, digits).startsWith("-") || isNaN(value) ? "" : "+") + percent(value, digits);
const minus = (text) => text.replace(/^-/, "−");
const colour = (k) => `--run:var(--run${k % 7})`;
const groupOf = []; for (const [name, members] of Object.entries(data.groups)) for (const y of members) groupOf[y] = name;
const spans = Object.keys(data.groups).map((name) => {
  const places = data.groups[name].map((y) => place[y]);
  return [name, Math.min(...places), Math.max(...places) + 1];
});

let widths = new Map();  // to ask for one makes the browser lay the page out
function svg(box, height, label, draw) {
  if (!widths.has(box)) widths.set(box, Math.max(box.clientWidth - 2, 200));
  const width = widths.get(box);
  box.innerHTML = `<svg role="img" aria-label="${escaped(label)}" height="${height}" viewBox="0 0 ${width} ${height}">${draw(width, height)}</svg>`;
}

function showHeadline(results) {
  at("headline").innerHTML = results.map((found, k) => {
    const { top1, noise } = found.now.values;
    return `<dl class="card" style="${colour(k)}"><dt title="${escaped(runs[k].name)}">${escaped(runs[k].name)}</dt>`
      + `<dd>${percent(top1)} % <small class="quiet" style="display:inline;font-size:.8rem;font-weight:400">± ${percent(noise)}</small></dd>`
      + `<small>${percent(found.then.values.top1)} % as trained</small></dl>`;
  }).join("");
}

function showNumbers(results) {
  const groups = Object.keys(data.groups);
  const heads = ["right under this mix", "gain", "balanced", ...groups, "ECE"];
  const row = (k, found, word, values, gain) => {
    const cell = (metric, value, text) => `<td class="n" data-run="${k}" data-state="${word ? "now" : "then"}" data-metric="${metric}" data-value="${value}">${text}</td>`;
    const shown = (metric) => cell(metric, values[metric], percent(values[metric]));
    return `<tr><th scope="row"><span class="run" style="${colour(k)}"></span>${escaped(runs[k].name)}<small>${word || "as trained"}</small></th>`
      + cell("top1", values.top1, `${percent(values.top1)} ± <span data-run="${k}" data-state="${word ? "now" : "then"}" data-metric="noise" data-value="${values.noise}">${percent(values.noise)}</span>`)
      + (gain ? cell("gain", gain[0], `${minus(signed(gain[0]))} ± <span data-run="${k}" data-state="now" data-metric="gain_noise" data-value="${gain[1]}">${percent(gain[1])}</span>`) : `<td class="n"></td>`)
      + ["balanced", ...groups, "ece"].map(shown).join("") + "</tr>";
  };
  at("numbers").innerHTML = `<table><thead><tr><th scope="col">run</th>${heads.map((head) => `<th scope="col" class="n">${head}</th>`).join("")}</tr></thead><tbody>`
    + results.map((found, k) => row(k, found, "", found.then.values)
      + row(k, found, isCorrected(runs[k]) ? "corrected" : state.correct ? "what it expects is unknown" : "not corrected", found.now.values, found.gain)).join("")
    + "</tbody></table>";
}

function showClasses(results) {
  const named = C <= 20, longest = named ? Math.min(14, Math.max(...data.classes.map((name) => name.length))) : 0;
  const foot = named ? 16 + 5 * longest : 34, left = 38, top = 20;
  const label = results.map((found, k) => `${runs[k].name}: ` + Object.keys(data.groups).map((name) => `${name}-shot ${percent(found.now.values[name])} %`).join(", ")).join("; ");
  svg(at("classes"), 230 + foot, `Accuracy of every class. ${label}.`, (width, height) => {
    const x = (j) => left + (j + 0.5) * (width - left - 8) / C, y = (value) => top + (1 - value) * (height - top - foot);
    let text = "";
    for (const [name, first, end] of spans) {
      const from = x(first - 0.5), to = x(end - 0.5);
      text += `<rect x="${from}" y="${top}" width="${to - from}" height="${height - top - foot}" fill="var(--${name})" opacity=".1"/>`;
      if (to - from > 6.5 * name.length) text += `<text x="${(from + to) / 2}" y="14" text-anchor="middle" style="fill:var(--${name})">${name}</text>`;
    }
    for (const value of [0, 0.25, 0.5, 0.75, 1])
      text += `<path d="M${left} ${y(value)}H${width - 8}" stroke="var(--line)"/><text x="${left - 5}" y="${y(value) + 4}" text-anchor="end">${100 * value}${value === 1 ? "%" : ""}</text>`;
    results.forEach((found, k) => {
      for (const [recall, dash, opacity] of [[found.then.recall, "3 3", 0.6], [found.now.recall, "", 1]]) {
        const points = rank.map((c, j) => [x(j), y(recall[c])]).filter((point) => !isNaN(point[1]));
        text += `<polyline points="${points.map((point) => point.map((v) => v.toFixed(1)).join()).join(" ")}" fill="none" style="stroke:var(--run${k % 7})" stroke-width="1.8" stroke-dasharray="${dash}" opacity="${opacity}"/>`;
      }
    });
    if (named) rank.forEach((c, j) => {
      const name = data.classes[c];
      text += `<text text-anchor="end" transform="translate(${x(j) + 4} ${height - foot + 14}) rotate(-50)">${escaped(name.length > 14 ? name.slice(0, 13) + "…" : name)}</text>`;
    });
    else text += `<text x="${left}" y="${height - foot + 16}">1</text><text x="${width - 8}" y="${height - foot + 16}" text-anchor="end">${C}</text>`
      + `<text x="${(left + width) / 2}" y="${height - foot + 30}" text-anchor="middle">class, 1 = most training samples</text>`;
    return text;
  });
  if (at("listing").open) {
    const heads = ["training samples", "test samples", "share %", ...runs.map((run) => `${escaped(run.name)} %`)];
    at("table").innerHTML = `<table><thead><tr><th scope="col">class</th>${heads.map((head) => `<th scope="col" class="n">${head}</th>`).join("")}</tr></thead><tbody>`
      + rank.map((c) => `<tr><th scope="row">${escaped(data.classes[c])}</th>` + [data.train[c].toLocaleString("en"), data.test[c].toLocaleString("en"), percent(state.mix[c], 2),
        ...results.map((found) => `${percent(found.now.recall[c])} <small>(${percent(found.then.recall[c])})</small>`)].map((cell) => `<td class="n">${cell}</td>`).join("") + "</tr>").join("")
      + "</tbody></table><p><small>In brackets as trained.</small></p>";
  }
}

function panels(id, draw) {
  const box = at(id);
  if (box.childElementCount !== runs.length)
    box.innerHTML = runs.map((run, k) => `<figure><h3><span class="run" style="${colour(k)}"></span>${escaped(run.name)}</h3><div></div></figure>`).join("");
  runs.forEach((run, k) => draw(box.children[k].lastElementChild, k));
}

function showReliability(results) {
  panels("reliability", (box, k) => {
    const { bins, values } = results[k].now, most = Math.max(...bins.map((bin) => bin.weight));
    svg(box, 200, `Reliability of ${runs[k].name}: ECE ${percent(values.ece)} %.`, (width, height) => {
      const left = 34, foot = 34, x = (value) => left + value * (width - left - 6), y = (value) => 8 + (1 - value) * (height - 8 - foot);
      let text = "";
      for (const value of [0, 0.5, 1])
        text += `<path d="M${left} ${y(value)}H${width - 6}" stroke="var(--line)"/><text x="${left - 5}" y="${y(value) + 4}" text-anchor="end">${100 * value}</text>`
          + `<text x="${x(value)}" y="${height - foot + 15}" text-anchor="${value === 1 ? "end" : "middle"}">${100 * value}${value === 1 ? "%" : ""}</text>`;
      bins.forEach((bin, b) => {
        if (!(bin.weight > 0)) return;
        const right = bin.hits / bin.weight;
        text += `<rect x="${x(b / BINS) + 0.5}" y="${y(right)}" width="${x(1 / BINS) - x(0) - 1}" height="${y(0) - y(right)}" fill="var(--accent)" opacity="${0.2 + 0.8 * Math.sqrt(bin.weight / most)}">`
          + `<title>confidence ${percent(bin.confidence / bin.weight)} %, right ${percent(right)} %, ${percent(bin.weight)} % of the samples</title></rect>`;
      });
      return text + `<path d="M${x(0)} ${y(0)}L${x(1)} ${y(1)}" stroke="var(--text)" stroke-dasharray="4 4"/>`
        + `<text x="${x(0) + 6}" y="22" style="fill:var(--text)">ECE ${percent(values.ece)} %</text>`
        + `<text x="${(left + width) / 2}" y="${height - 4}" text-anchor="middle">confidence</text>`;
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
    const value = change ? now - then : now, text = change && Math.abs(value) < 0.005 ? "·" : minus(change ? signed(value, 0) : percent(value, 0));
    return `<td class="${value < 0 ? "down" : "up"}" style="--a:${Math.min(0.9, Math.abs(value) * (change ? 2 : 0.8)).toFixed(2)}">${isNaN(value) ? "–" : text}</td>`;
  };
  return `<div class="scroll"><table class="confusion"><caption class="unseen">${caption}</caption><thead><tr><td></td>${names.map((name) => `<th scope="col"><span>${escaped(name)}</span></th>`).join("")}</tr></thead><tbody>`
    + names.map((name, a) => `<tr><th scope="row" title="${escaped(name)}">${escaped(name)}</th>${names.map((_, b) => cell(shares[a][b], before[a][b])).join("")}</tr>`).join("") + "</tbody></table></div>";
}

function showConfusions(results, weights) {
  panels("confusions", (box, k) => {
    const now = counted(results[k].found.predicted), then = counted(base[k].predicted), caption = escaped(`Confusions of ${runs[k].name}`);
    if (C <= 20) {
      const shares = (counts) => rank.map((y) => rank.map((c) => counts[y * C + c] / data.tested[y]));
      box.innerHTML = matrix(rank.map((y) => data.classes[y]), shares(now), shares(then), caption);
      return;
    }
    const groups = Object.keys(data.groups);
    const shares = (counts) => groups.map((a) => groups.map((b) => {
      const tested = data.groups[a].filter((y) => data.tested[y]);
      return sum(tested.map((y) => sum(data.groups[b].map((c) => counts[y * C + c])) / data.tested[y])) / tested.length;
    }));
    const worst = [];  // the pairs with the most of all samples
    for (let y = 0; y < C; y++) if (data.tested[y]) for (let c = 0; c < C; c++) {
      if (c === y || !now[y * C + c]) continue;
      const pair = [weights[y] * now[y * C + c] / data.tested[y], y, c];
      if (worst.length < 8 || pair[0] > worst[7][0]) { worst.push(pair); worst.sort((a, b) => b[0] - a[0]); worst.length = Math.min(8, worst.length); }
    }
    box.innerHTML = matrix(groups, shares(now), shares(then), caption)
      + `<div class="scroll"><table><thead><tr><th scope="col">most confused</th><th scope="col">taken for</th><th scope="col" class="n">of the class %</th><th scope="col" class="n">of all %</th></tr></thead><tbody>`
      + worst.map(([share, y, c]) => `<tr><th scope="row">${escaped(data.classes[y])}</th><td>${escaped(data.classes[c])}</td>`
        + `<td class="n">${percent(now[y * C + c] / data.tested[y], 0)} <small>(${percent(then[y * C + c] / data.tested[y], 0)})</small></td><td class="n">${percent(share, 2)}</td></tr>`).join("")
      + "</tbody></table></div><p><small>In brackets as trained.</small></p>";
  });
}

let ceiling = 1;  // of the bars: it stays while one is dragged
function showControls() {
  const words = { ...Object.fromEntries(Object.entries(MIXES).map(([word, [text]]) => [word, text])), own: "your own" };
  if (!at("preset").childElementCount)
    at("preset").innerHTML = Object.entries(words).map(([word, text]) => `<option value="${word}">${text}</option>`).join("");
  at("preset").value = state.word;
  const sliders = Object.entries(data.groups).filter(() => Object.keys(data.groups).length > 1).map(([name, members]) => [`${name}-shot, ${members.length} ${members.length === 1 ? "class" : "classes"}`, members]);
  if (C <= 12) sliders.push(...rank.map((y) => [data.classes[y], [y]]));
  const box = at("sliders");
  if (!box.childElementCount)
    box.innerHTML = sliders.map(([name], k) => `<label for="slider${k}">${escaped(name)} <output></output></label><input type="range" id="slider${k}" min="0" max="100" step="0.1">`).join("");
  sliders.forEach(([, members], k) => {
    const share = sum(members.map((y) => state.mix[y])), slider = box.children[2 * k + 1], text = `${percent(share)} %`;
    box.children[2 * k].lastElementChild.textContent = text;
    if (slider !== document.activeElement || Math.abs(slider.value - 100 * share) > 0.06) slider.value = 100 * share;
    slider.setAttribute("aria-valuetext", text);
    slider.oninput = () => { setShare(members, slider.value / 100); schedule(); };
  });
  at("correct").checked = state.correct;
  for (const name of ["strength", "temperature"]) { at(name).value = state[name]; at(name + "_now").textContent = state[name].toFixed(2); }
  at("strength").disabled = at("from").disabled = !state.correct;
  at("from").value = state.from;
  if (at("bars").parentElement.open) {
    const most = Math.max(...state.mix);
    if (!dragged) ceiling = most * 1.15;
    svg(at("bars"), 110, `Share of every class, from most training samples to fewest; the largest is ${percent(most)} %.`, (width, height) =>
      `<rect width="${width}" height="${height}" fill="transparent"/>` + rank.map((y, j) => {
        const tall = Math.max(1, state.mix[y] / ceiling * (height - 2)), step = width / C;
        return `<rect x="${j * step}" y="${height - tall}" width="${Math.max(0.5, step - (step > 4 ? 1 : 0))}" height="${tall}" fill="var(--${groupOf[y]})"><title>${escaped(data.classes[y])}: ${percent(state.mix[y], 2)} %</title></rect>`;
      }).join(""));
  }
}

// --- Together --------------------------------------------------------------------------------------------------------

const ones = new Float64Array(C).fill(1);
const base = runs.map((run) => score(run, ones, 1));
let waiting = 0, pause = 0, dragged = null;

function update() {
  const start = performance.now(), weights = weightsOf(state.mix);
  const results = runs.map((run, k) => {
    const found = score(run, factorsOf(run), state.temperature);
    return { found, now: summary(found, weights), then: summary(base[k], weights), gain: gainOf(base[k].predicted, found.predicted, weights) };
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
    at("status").textContent = results.map((found, k) => `${runs[k].name}: ${percent(found.now.values.top1)} % right, ${percent(found.then.values.top1)} % as trained.`).join(" ");
  }, 300);
}

function schedule() { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; update(); }); }

at("preset").onchange = () => { if (at("preset").value !== "own") choose(at("preset").value); update(); };
at("correct").onchange = () => { state.correct = at("correct").checked; update(); };
at("from").onchange = () => { state.from = at("from").value; update(); };
for (const name of ["strength", "temperature"]) at(name).oninput = () => { state[name] = Number(at(name).value); schedule(); };
at("reset").onclick = () => { state = { ...DEFAULTS }; update(); };
at("change").onchange = update;
at("take").onclick = () => {
  try {
    state.mix = readList(at("list").value);
    state.word = "own";
    at("fault").hidden = true;
    update();
  } catch (fault) {
    if (typeof fault !== "string") throw fault;
    at("fault").textContent = fault;
    at("fault").hidden = false;
  }
};
at("file").onchange = async () => { const file = at("file").files[0]; if (file) { at("list").value = await file.text(); at("take").click(); } };
at("controls").onsubmit = (event) => event.preventDefault();
at("bars").onpointerdown = (event) => { dragged = event.pointerId; at("bars").setPointerCapture(dragged); drag(event); };
at("bars").onpointermove = (event) => { if (dragged !== null) drag(event); };
at("bars").onpointerup = at("bars").onpointercancel = () => { dragged = null; schedule(); };
let held = 0;
function drag(event) {
  const box = at("bars").getBoundingClientRect();
  if (event.type === "pointerdown") held = rank[Math.max(0, Math.min(C - 1, Math.floor((event.clientX - box.left) / box.width * C)))];
  setShare([held], Math.max(0, Math.min(1, (1 - (event.clientY - box.top) / box.height) * ceiling)));
  schedule();
}
onhashchange = () => { readAddress(); update(); };
at("listing").ontoggle = at("bars").parentElement.ontoggle = onresize = () => { widths = new Map(); schedule(); };
readAddress();
update();
})();
