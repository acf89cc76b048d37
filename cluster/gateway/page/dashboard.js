// The state of the cluster: one event stream, drawn once a second. Loading and unloading models, after their plan.

export const $ = (id) => document.getElementById(id);

/** Make an element; text goes in as text, so that no name can become markup. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export function headers() {
  const key = sessionStorage.getItem("key");
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

/** Call the API; an error is the server's own sentence. */
export async function call(path, body, signal) {
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(path, { method, headers: headers(), body: body && JSON.stringify(body), signal });
  if (response.status === 401) askForKey();
  if (!response.ok) {
    const failure = await response.json().catch(() => null);
    throw new Error(failure?.error?.message ?? `${path}: ${response.status}`);
  }
  return response;
}

/** Yield the data of server-sent events. A stream that breaks is an error, one that ends has ended. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; count >= 999.5 && unit < units.length - 1; unit += 1) count /= 1000;
  return `${count >= 100 || unit === 0 ? count.toFixed(0) : count.toFixed(1)} ${units[unit]}`;
}

const HISTORY = 5;
let history = [];  // the newest states last, with the time of each
let state = null;
export const current = () => state;

function askForKey() {
  $("key").hidden = false;
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

async function watch() {
  for (;;) {
    try {
      const response = await call("/v1/cluster/events");
      for await (const event of events(response)) {
        if (event.error) headline(event.error.message, "bad");
        else draw(event);
      }
    } catch (error) {
      headline(`${error.message}; trying again`, "bad");
    }
    await new Promise((again) => setTimeout(again, 2000));
  }
}

function headline(text, kind = "") {
  if ($("headline").textContent !== text) $("headline").textContent = text;
  $("headline").className = kind;
}

function draw(next) {
  history = [...history, { at: performance.now() / 1000, state: next }].slice(-HISTORY);
  state = next;
  const here = state.nodes.filter((node) => node.state === "present");
  const offered = here.reduce((sum, node) => sum + node.offered_bytes, 0);
  const nodes = `${here.length} of ${state.nodes.length} ${state.nodes.length === 1 ? "Mac" : "Macs"}`;
  headline(`${nodes} here, ${bytes(offered)} for models${state.insecure ? " · INSECURE" : ""}`);
  drawModel();
  drawFigures();
  drawFlow();
  drawNodes();
  drawLinks();
  document.dispatchEvent(new CustomEvent("cluster", { detail: state }));
}

function drawModel() {
  const model = state.model;
  const box = $("model");
  const shown = JSON.stringify([model?.name, model?.state, model?.failure]);
  if (box.dataset.shown === shown) return;  // so that the focus stays on its button
  box.dataset.shown = shown;
  if (!model) {
    box.replaceChildren(make("p", { class: "muted" }, "No model is loaded."));
    $("models").open = true;
    return;
  }
  const kind = { ready: "good", failed: "bad" }[model.state] ?? "warn";
  box.replaceChildren(
    make("p", {}, make("strong", {}, model.name), " ", make("span", { class: kind }, model.state),
      model.failure ? `: ${model.failure}` : ""),
    make("button", { class: "quiet", type: "button", onclick: unload }, "Unload"),
  );
}

function drawFigures() {
  const { model, requests } = state;
  const compared = model?.drafts_compared ?? 0;
  const cached = state.nodes.reduce((most, node) => Math.max(most, node.holding?.kv_positions ?? 0), 0);
  const figures = {
    "answering": `${model?.active_requests ?? 0}`,
    "waiting": `${requests.waiting}`,
    "tokens/s": requests.tokens_per_s.toFixed(1),
    "first token": requests.ttft_s ? `${requests.ttft_s.toFixed(2)} s` : "–",
    "drafts accepted": compared ? `${Math.round((100 * model.drafts_accepted) / compared)} %` : "–",
    "cached tokens": cached.toLocaleString("en"),
  };
  if (model?.recoveries) figures["losses survived"] = `${model.recoveries}`;
  $("figures").replaceChildren(
    ...Object.entries(figures).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

function drawNodes() {
  const layers = Math.max(0, ...state.nodes.map((node) => node.holding?.end_layer ?? 0));
  const place = (node) => node.holding?.stage ?? Infinity;
  const sorted = [...state.nodes].sort((a, b) => place(a) - place(b) || a.name.localeCompare(b.name, "en", { numeric: true }));
  $("nodes").replaceChildren(...sorted.map((node) => drawNode(node, layers)));
}

function drawNode(node, layers) {
  const holding = node.holding;
  const kind = { present: "good", suspect: "warn" }[node.state] ?? "bad";
  const frames = Math.round(rate(node, "frames"));
  const title = make("h3", {}, node.name,
    make("span", {}, make("span", { class: `pulse ${frames > 0 ? "busy" : ""}`, "aria-hidden": "true" }), " ",
      make("span", { class: kind }, holding?.coordinates ? `${node.state}, coordinator` : node.state)));
  const memory = [node.chip, `offers ${bytes(node.offered_bytes)} of ${bytes(node.memory_bytes)}`];
  if (node.free_disk_bytes) memory.push(`${bytes(node.free_disk_bytes)} free on disk`);
  const parts = [title, make("p", { class: "muted" }, memory.join(" · "))];
  if (holding) parts.push(...drawHolding(node, holding, layers, frames));
  return make("li", {}, ...parts);
}

function drawHolding(node, holding, layers, frames) {
  const span = !holding.leads ? "experts only" : layersOf(holding);
  const bar = make("div", { class: "layers", role: "img", "aria-label": `${span} of ${layers}` },
    ...Array.from({ length: layers }, (_, i) =>
      make("i", { class: i >= holding.first_layer && i < holding.end_layer ? "held" : "" })));
  const held = [span, `${holding.experts.toLocaleString("en")} experts`, bytes(holding.weights_bytes),
    `KV ${bytes(holding.kv_bytes)}`, `${frames} frames/s`];
  const used = make("meter", { "aria-label": `memory of ${node.name} in use`, min: 0, max: node.offered_bytes || 1,
    value: holding.weights_bytes + holding.kv_bytes });
  const parts = [bar, make("p", {}, held.join(" · ")), used];
  const progress = holding.progress;
  if (progress) {
    const from = progress.source ? ` from ${progress.source}` : "";
    parts.push(
      make("p", { class: "warn" }, `${from ? "fetching" : "loading"}: ${bytes(progress.done_bytes)} of ${bytes(progress.total_bytes)}${from}`),
      make("progress", { "aria-label": `loading on ${node.name}`, max: progress.total_bytes || 1, value: progress.done_bytes }),
    );
  }
  return parts;
}

/** How much a count of a node's worker grew a second; 0 where it began anew. */
function rate(node, count) {
  const counted = history.map(({ at, state: { nodes } }) => ({ at, value: nodes.find((other) => other.id === node.id)?.holding?.[count] }))
    .filter(({ value }) => value !== undefined);
  const [first, last] = [counted[0], counted.at(-1)];
  return counted.length > 1 ? Math.max(0, (last.value - first.value) / (last.at - first.at)) : 0;
}

/** The stages in the order of the pipeline; elements stay, so that what moves does not begin anew. */
function drawFlow() {
  const stages = state.nodes.filter((node) => node.holding?.leads && node.holding.end_layer).sort((a, b) => a.holding.stage - b.holding.stage);
  const flow = $("flow");
  flow.hidden = !stages.length;
  const shown = JSON.stringify(stages.map((node) => [node.id, node.name, node.holding.first_layer, node.holding.end_layer]));
  if (flow.dataset.shown !== shown) {
    flow.dataset.shown = shown;
    flow.replaceChildren(...stages.map((node) => make("li", {},
      make("strong", {}, node.name), make("span", { class: "muted" }, layersOf(node.holding)),
      make("meter", { "aria-label": `${node.name} computing`, min: 0, max: 1, value: 0 }), make("span", { class: "rate" }),
      make("span", { class: "hop", "aria-hidden": "true" }, make("i")))));
  }
  stages.forEach((node, number) => {
    const [box, frames] = [flow.children[number], rate(node, "frames")];
    const computing = Math.min(1, rate(node, "compute_s"));
    box.querySelector("meter").value = computing;
    box.querySelector(".rate").textContent = `${Math.round(100 * computing)} % busy · ${Math.round(frames)} frames/s`;
    box.querySelector(".hop").classList.toggle("busy", frames >= 1);
    const pace = `${Math.max(0.4, Math.min(2, 10 / Math.max(frames, 1))).toFixed(1)}s`;
    if (box.style.getPropertyValue("--pace") !== pace) box.style.setProperty("--pace", pace);
  });
}

const layersOf = (holding) => holding.end_layer - holding.first_layer === 1 ? `layer ${holding.first_layer}`
  : `layers ${holding.first_layer} to ${holding.end_layer - 1}`;

function drawLinks() {
  const names = Object.fromEntries(state.nodes.map((node) => [node.id, node.name]));
  $("links").tBodies[0].replaceChildren(...state.links.map((link) =>
    make("tr", {}, ...[names[link.from], names[link.to] ?? "?", `${link.latency_ms.toFixed(2)} ms`,
      link.bytes_per_s ? `${bytes(link.bytes_per_s)}/s` : ""].map((text) => make("td", {}, text)))));
}

const EXPERTS_MS = 5000;
const MOST_TIMES = 4;  // its mean: the strongest color

/** The heat map: a row for each layer, a column for each expert. Read only while it is open. */
async function watchExperts() {
  while ($("experts").open) {
    try {
      drawExperts((await (await call("/v1/cluster/experts")).json()).layers);
    } catch (error) {
      $("experts-said").textContent = error.message;
    }
    await new Promise((again) => setTimeout(again, EXPERTS_MS));
  }
}

function drawExperts(layers) {
  const map = $("experts-map");
  map.hidden = !layers.length;
  if (!layers.length) return;
  map.width = Math.max(...layers.map(({ load }) => load.length));
  map.height = layers.length;
  const context = map.getContext("2d");
  context.fillStyle = getComputedStyle(map).color;
  let most = { times: 0 };
  layers.forEach(({ layer, load }, row) => load.forEach((times, expert) => {
    context.globalAlpha = Math.min(1, times / MOST_TIMES);
    context.fillRect(expert, row, 1, 1);
    if (times > most.times) most = { times, layer, expert };
  }));
  $("experts-said").textContent = `Layers ${layers[0].layer} to ${layers.at(-1).layer} from above, experts from the left. `
    + `Full color: ${MOST_TIMES} times the mean of the layer or more. Most chosen: expert ${most.expert} of layer ${most.layer}, ${most.times.toFixed(1)} times the mean.`;
}

async function listModels() {
  const { models } = await (await call("/v1/cluster/models")).json();
  $("known").replaceChildren(...models.map((model) => make("option", { value: model.name }, bytes(model.bytes))));
}

async function showPlan(event) {
  event.preventDefault();
  const name = $("load-name").value.trim();
  if (!name) return;
  try {
    drawPlan(name, await (await call("/v1/cluster/plan", { model: name })).json());
  } catch (error) {
    say(make("p", { class: "notice" }, error.message), loadButton(name, "Load it all the same"));
  }
}

function drawPlan(name, plan) {
  const rows = plan.stages.map((stage) => make("tr", {}, ...[stage.node, `${stage.first_layer} to ${stage.end_layer - 1}`,
    bytes(stage.bytes), stage.experts_on.join(", ")].map((text) => make("td", {}, text))));
  const head = ["Mac", "layers", "weights", "experts also on"].map((text) => make("th", { scope: "col" }, text));
  say(
    make("p", {}, `${plan.model}: about ${plan.tokens_per_s} tokens/s for one user, ${plan.most_tokens_per_s} for many`),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Plan" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))),
    loadButton(name, state?.model ? `Load it in place of ${state.model.name}` : "Load it"),
  );
}

const say = (...parts) => $("plan").replaceChildren(...parts);

function loadButton(name, text) {
  return make("button", { type: "button", onclick: () => load(name, false) }, text);
}

async function load(model, download) {
  const line = make("p", {}, "loading …");
  say(line);
  try {
    const response = await call("/v1/cluster/load", { model, replace: true, download });
    for await (const event of events(response)) {
      if (event.error?.code === "download" && !download) {
        say(make("p", {}, event.error.message), make("button", { type: "button", onclick: () => load(model, true) }, "Download it"));
        return;
      }
      if (event.error) throw new Error(event.error.message);
      if (event.ready) line.textContent = "ready";
      else if (event.nodes?.length) line.textContent = event.nodes.map((n) => `${n.name} ${bytes(n.done_bytes)} of ${bytes(n.total_bytes)}`).join(", ");
    }
  } catch (error) {
    say(make("p", { class: "notice" }, error.message));
  }
}

async function unload() {
  try {
    await call("/v1/cluster/unload", {});
  } catch (error) {
    headline(error.message, "bad");
  }
}

$("load-form").addEventListener("submit", showPlan);
$("models").addEventListener("toggle", () => $("models").open && listModels().catch(() => {}));
$("experts").addEventListener("toggle", watchExperts);
$("key").addEventListener("click", askForKey);
$("key-dialog").addEventListener("close", () => sessionStorage.setItem("key", $("key-value").value.trim()));
watch();
