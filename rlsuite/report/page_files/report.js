"use strict";
// Draws the figures of the open tab, and again when a tab, an axis, a scale or a legend entry is chosen.
const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
const chosen = {tab: 0, axis: document.getElementById("axis").value, scale: "linear"};
const narrow = window.matchMedia("(max-width: 40rem)").matches;
const config = {
  responsive: true, displaylogo: false, toImageButtonOptions: {format: "svg"},
  modeBarButtons: [narrow ? ["toImage"] : ["toImage", "zoom2d", "pan2d", "resetScale2d"]],  // none that sends data away
};
const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const digits = new Intl.NumberFormat("en", {maximumSignificantDigits: 4});
const number = value => value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(2)
  : (Math.abs(value) >= 1000 ? whole : digits).format(value);

// A page that loads itself again keeps what was chosen; a browser that refuses storage does without.
try { Object.assign(chosen, JSON.parse(sessionStorage.getItem(location.pathname) || "{}")); } catch { /* none */ }
const keep = () => { try { sessionStorage.setItem(location.pathname, JSON.stringify(chosen)); } catch { /* none */ } };

// Plotly has no symmetric logarithm: values are moved, and ticks carry the numbers. Linear up to `unit`.
function symlog(values) {
  const most = Math.max(...values.map(Math.abs)) || 1;
  const unit = 10 ** (Math.floor(Math.log10(most)) - 2);
  const move = value => value === null ? null : Math.sign(value) * Math.log10(1 + Math.abs(value) / unit);
  const low = Math.min(0, ...values), high = Math.max(0, ...values);
  const ticks = [0];
  for (let size = unit; size <= 10 * most; size *= 10) ticks.push(size, -size);
  const inside = ticks.filter(tick => tick >= 10 * low && tick <= 10 * high).sort((a, b) => a - b);
  return {move, axis: {tickvals: inside.map(move), ticktext: inside.map(number)}};
}

function curves(figure) {
  const shown = entry => !hidden.has(entry.label);
  const means = figure.means.filter(shown).map(mean => ({...mean, ...mean.on[chosen.axis]}));
  const seeds = figure.curves.filter(shown);
  const values = [...seeds.map(s => s.y), ...means.flatMap(m => [m.y, m.low || [], m.high || []])].flat()
    .filter(value => value !== null);
  const log = chosen.scale === "log", signed = values.some(value => value <= 0);
  const {move, axis} = log && signed ? symlog(values) : {move: value => value, axis: {type: log ? "log" : "linear"}};
  const averaged = new Set(figure.means.map(mean => mean.label));
  const traces = [];
  for (const mean of means.filter(mean => mean.low))
    traces.push({
      x: [...mean.x, ...[...mean.x].reverse()], y: [...mean.low, ...[...mean.high].reverse()].map(move),
      fill: "toself", fillcolor: mean.color, opacity: 0.15, line: {width: 0}, mode: "lines", hoverinfo: "skip",
    });
  for (const seed of seeds)
    traces.push({
      x: seed.x[chosen.axis], y: seed.y.map(move), mode: seed.y.length > 1 ? "lines" : "markers",
      line: {color: seed.color, width: averaged.has(seed.label) ? 1 : 2.5}, marker: {color: seed.color, size: 8},
      opacity: averaged.has(seed.label) ? 0.5 : 1,
      ...(seed.hover ? said(seed.label, seed.x[chosen.axis], seed.y, () => `seed ${seed.seed}`) : {hoverinfo: "skip"}),
    });
  for (const mean of means)
    traces.push({
      x: mean.x, y: mean.y.map(move), mode: mean.y.length > 1 ? "lines" : "markers",
      line: {color: mean.color, width: 2.5}, marker: {color: mean.color, size: 8},
      ...(mean.low ? said(mean.label, mean.x, mean.y, at => `${number(mean.low[at])} to ${number(mean.high[at])}`)
        : {hoverinfo: "skip"}),
    });
  const title = data.axes[chosen.axis], scale = !log ? "" : signed ? " (symlog)" : " (log)";
  return [traces, layout(figure.title + scale, {title: {text: title}, rangemode: "tozero",
    unifiedhovertitle: {text: `${title} · ${figure.short} · seed or 95 % interval`}}, axis)];
}

// A line of the hover box: step, value, and seed or interval. A curve that ended earlier says its own last step.
function said(label, steps, values, last) {
  const text = values.map((value, at) => value === null ? "" : `${number(steps[at])} · ${number(value)} · ${last(at)}`);
  const short = narrow && label.length > 24 ? `${label.slice(0, 23)}…` : label;
  return {customdata: text, hovertemplate: `${escaped(short)}: %{customdata}<extra></extra>`};
}

// Labels are text: plotly reads a few tags and templates in hover boxes and titles.
const escaped = text => text.replace(/[&<>%]/g, sign => `&#${sign.charCodeAt(0)};`);

function layout(title, xaxis, yaxis) {
  const size = narrow ? 11 : 13, fixed = narrow;  // on a phone a swipe scrolls the page
  return {
    title: {text: escaped(title), font: {size: size + 1}, x: 0.02, xanchor: "left"}, font: {size}, showlegend: false,
    hovermode: "x unified", hoverdistance: -1, hoverlabel: {font: {size: size - 1}, align: "left"}, dragmode: narrow ? false : "zoom",
    margin: {l: 60, r: 24, t: 42, b: 46}, plot_bgcolor: "#fff",
    xaxis: {gridcolor: "#e6eaee", linecolor: "#9aa5af", nticks: narrow ? 5 : 8, tickformat: "~s", fixedrange: fixed, ...xaxis},
    yaxis: {gridcolor: "#e6eaee", zerolinecolor: "#9aa5af", fixedrange: fixed, ...yaxis},
  };
}

function profile() {
  const box = document.getElementById("profile");
  if (!box) return;
  const lines = data.profile.lines.filter(line => !hidden.has(line.label)), x = data.profile.x;
  const bands = lines.map(line => ({
    x: [...x, ...[...x].reverse()], y: [...line.low, ...[...line.high].reverse()], fill: "toself",
    fillcolor: line.color, opacity: 0.15, line: {width: 0}, mode: "lines", hoverinfo: "skip",
  }));
  const shares = lines.map(line => ({
    x, y: line.y, mode: "lines", line: {color: line.color, width: 2.5, shape: "hv"},
    ...said(line.label, x, line.y, at => `${number(line.low[at])} to ${number(line.high[at])}`),
  }));
  const head = {title: {text: data.profile.title}, unifiedhovertitle: {text: "score · share of runs · 95 % interval"}};
  Plotly.react(box, [...bands, ...shares], layout("Share of runs above a score", head, {rangemode: "tozero"}), config);
}

const tabs = [...document.querySelectorAll("[role=tab]")];
function draw() {
  tabs.forEach((tab, at) => {
    tab.setAttribute("aria-selected", at === chosen.tab);
    tab.tabIndex = at === chosen.tab ? 0 : -1;
    document.getElementById(`panel-${at}`).hidden = at !== chosen.tab;
  });
  for (const box of document.querySelectorAll(`#panel-${chosen.tab} .figure`))
    Plotly.react(box, ...curves(data.tabs[box.dataset.tab][box.dataset.at]), config);
}

if (!(chosen.tab < tabs.length)) chosen.tab = 0;
tabs.forEach((tab, at) => {
  tab.addEventListener("click", () => { chosen.tab = at; keep(); draw(); });
  tab.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const next = tabs[(at + step + tabs.length) % tabs.length];
    next.click();
    next.focus();
  });
});
for (const name of ["axis", "scale"]) {
  const select = document.getElementById(name);
  select.value = chosen[name];
  select.addEventListener("change", () => { chosen[name] = select.value; keep(); draw(); });
}
for (const entry of document.querySelectorAll(".legend button"))
  entry.addEventListener("click", () => {
    const on = entry.getAttribute("aria-pressed") === "false";
    entry.setAttribute("aria-pressed", on);
    hidden[on ? "delete" : "add"](entry.dataset.label);
    draw();
    profile();
  });
for (const button of document.querySelectorAll(".copy"))
  button.addEventListener("click", async () => {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.text);
    } catch {  // an old browser, or a page without the right to write: through a field
      const field = document.body.appendChild(document.createElement("textarea"));
      field.value = button.dataset.text;
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
draw();
profile();
