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

let before = null;
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
  before = state;
  state = next;
  const here = state.nodes.filter((node) => node.state === "present");
  const offered = here.reduce((sum, node) => sum + node.offered_bytes, 0);
  const nodes = `${here.length} of ${state.nodes.length} ${state.nodes.length === 1 ? "Mac" : "Macs"}`;
  headline(`${nodes} here, ${bytes(offered)} for models${state.insecure ? " · INSECURE" : ""}`);
  drawModel();
  drawFigures();
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
    "drafts right": compared ? `${Math.round((100 * model.drafts_accepted) / compared)} %` : "–",
    "cached tokens": cached.toLocaleString("en"),
  };
  $("figures").replaceChildren(
    ...Object.entries(figures).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

function drawNodes() {
  const layers = Math.max(0, ...state.nodes.map((node) => node.holding?.end_layer ?? 0));
  $("nodes").replaceChildren(...state.nodes.map((node) => drawNode(node, layers)));
}

function drawNode(node, layers) {
  const holding = node.holding;
  const kind = { present: "good", suspect: "warn" }[node.state] ?? "bad";
  const frames = (holding?.frames ?? 0) - (earlier(node)?.frames ?? holding?.frames ?? 0);
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
  const span = holding.leads ? `layers ${holding.first_layer} to ${holding.end_layer - 1}` : "experts only";
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
      make("p", { class: "warn" }, `loading: ${bytes(progress.done_bytes)} of ${bytes(progress.total_bytes)}${from}`),
      make("progress", { "aria-label": `loading on ${node.name}`, max: progress.total_bytes || 1, value: progress.done_bytes }),
    );
  }
  return parts;
}

const earlier = (node) => before?.nodes.find((other) => other.id === node.id)?.holding;

function drawLinks() {
  const names = Object.fromEntries(state.nodes.map((node) => [node.id, node.name]));
  $("links").tBodies[0].replaceChildren(...state.links.map((link) =>
    make("tr", {}, ...[names[link.from], names[link.to] ?? "?", `${link.latency_ms.toFixed(2)} ms`,
      link.bytes_per_s ? `${bytes(link.bytes_per_s)}/s` : ""].map((text) => make("td", {}, text)))));
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
$("key").addEventListener("click", askForKey);
$("key-dialog").addEventListener("close", () => sessionStorage.setItem("key", $("key-value").value.trim()));
watch();
