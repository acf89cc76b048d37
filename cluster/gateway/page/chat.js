// The chat: messages stay in this tab; each can be edited and answered again. Reasoning is folded.

import { $, call, current, events, make } from "/page/dashboard.js";

let messages = JSON.parse(sessionStorage.getItem("chat") ?? "[]");
let answering = null;

function keep() {
  sessionStorage.setItem("chat", JSON.stringify(messages));
}

function draw() {
  $("messages").replaceChildren(...messages.map(article));
  $("messages").scrollTop = $("messages").scrollHeight;
}

function article(message, index) {
  const isUser = message.role === "user";
  const tools = make("div", { class: "tools" },
    isUser ? make("button", { class: "quiet", type: "button", onclick: () => edit(index) }, "Edit") : null,
    isUser ? null : make("button", { class: "quiet", type: "button", onclick: () => again(index) }, "Answer again"));
  return make("article", { class: message.role },
    make("h3", {}, isUser ? "You" : message.model ?? "Model"),
    message.reasoning ? make("details", { open: Boolean(message.open), ontoggle: (event) => { message.open = event.target.open; } },
      make("summary", {}, "Reasoning"), make("div", { class: "text" }, message.reasoning)) : null,
    make("div", { class: "text" }, message.content),
    message.notice ? make("p", { class: "notice" }, message.notice) : null,
    answering ? null : tools);
}

function edit(index) {
  $("question").value = messages[index].content;
  messages = messages.slice(0, index);
  keep();
  draw();
  $("question").focus();
}

function again(index) {
  messages = messages.slice(0, index);
  answer();
}

async function answer() {
  const sent = messages.map(({ role, content }) => ({ role, content }));
  const written = { role: "assistant", content: "", reasoning: "", model: current()?.model?.name };
  messages.push(written);
  answering = new AbortController();
  busy(true);
  draw();
  $("speed").textContent = "waiting for the first token";
  const began = performance.now();
  let tokens = 0;
  try {
    const body = { messages: sent, stream: true, stream_options: { include_usage: true } };
    const response = await call("/v1/chat/completions", body, answering.signal);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      written.content += choice?.delta.content ?? "";
      written.reasoning += choice?.delta.reasoning_content ?? "";
      if (choice?.finish_reason === "length") written.notice = "stopped at the longest answer";
      tokens += choice ? 1 : 0;
      if (written.content || written.reasoning) $("speed").textContent = "";
      if (event.usage) tokens = event.usage.completion_tokens;
      update(written);
    }
  } catch (error) {
    if (error.name !== "AbortError") written.notice = error.message;
  }
  $("speed").textContent = tokens ? `${tokens} tokens, ${(tokens / ((performance.now() - began) / 1000)).toFixed(1)} a second` : "";
  answering = null;
  busy(false);
  keep();
  draw();
}

function update(written) {
  const log = $("messages");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.lastElementChild.replaceWith(article(written, messages.length - 1));
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function busy(isBusy) {
  $("stop").hidden = !isBusy;
  $("send").disabled = isBusy;
  $("messages").setAttribute("aria-busy", String(isBusy));
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text || answering) return;
  $("question").value = "";
  messages.push({ role: "user", content: text });
  answer();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => answering?.abort());
$("clear").addEventListener("click", () => {
  answering?.abort();
  messages = [];
  keep();
  draw();
  $("question").focus();
});
draw();
