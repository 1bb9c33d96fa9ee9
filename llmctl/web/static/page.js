// What a page does beyond reading: keeps itself up to date, switches its colours, talks to the model.
"use strict";

const byId = (id) => document.getElementById(id);
const main = byId("main");

// ── colours ──
const dark = () => {
  const said = document.documentElement.dataset.theme;
  return said ? said === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const theme = byId("theme");
if (theme) {
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  name();
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const chosen = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    document.cookie = `llmctl_theme=${chosen}; Path=/; Max-Age=31536000; SameSite=Strict`;
    name();
  });
}

// ── live parts ──
const LINES = 500;
let source = null;

function fragment(html) {
  const made = document.createElement("template");
  made.innerHTML = html; // of our own server, which escapes all that is not its own
  return made.content.firstElementChild;
}

function replace(id, html) {
  const old = byId(id);
  if (!old) return location.reload(); // a host that was not there yet
  const made = fragment(html);
  if (old.outerHTML === made.outerHTML) return;
  const focused = old.contains(document.activeElement) ? [...old.querySelectorAll("a, summary, button")].indexOf(document.activeElement) : -1;
  const states = (node) => [...node.querySelectorAll(".pill")].map((one) => one.textContent).join(", ");
  const before = states(old), after = states(made), name = made.getAttribute("aria-label");
  old.replaceWith(made);
  if (focused >= 0) made.querySelectorAll("a, summary, button")[focused]?.focus();
  if (before !== after && name) byId("said").textContent = `${name}: ${after}`;
  if (id === "title" && "empty" in made.dataset !== "empty" in old.dataset) location.reload(); // other forms
}

function append(lines) {
  const log = byId("log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  for (const line of lines) {
    const item = document.createElement("li");
    item.textContent = line;
    log.append(item);
  }
  while (log.children.length > LINES) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function shown(text, lost) {
  const mark = byId("live");
  mark.hidden = false;
  mark.textContent = text;
  mark.classList.toggle("lost", lost);
}

function open() {
  if (source || !main.dataset.live || document.hidden) return;
  source = new EventSource(main.dataset.live);
  source.addEventListener("open", () => shown("live", false));
  source.addEventListener("parts", (said) => { for (const [id, html] of Object.entries(JSON.parse(said.data))) replace(id, html); });
  source.addEventListener("log", (said) => append(JSON.parse(said.data)));
  source.addEventListener("from", () => byId("log").replaceChildren());
  source.addEventListener("error", () => {
    shown("not live", true);
    if (source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 10000); }
  });
}

function close() {
  source?.close();
  source = null;
}

// a browser has six connections to one server: a page that nobody sees gives its own back
document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
const log = byId("log");
if (log) log.scrollTop = log.scrollHeight;
open();

// ── chat ──
const chat = byId("chat");
if (chat) {
  const talk = byId("talk"), question = byId("question"), stop = byId("stop");
  const [send] = byId("ask").getElementsByTagName("button");
  let said = [], asking = null;
  chat.hidden = false;

  const say = (kind, text) => {
    const line = document.createElement("p");
    line.className = kind;
    line.textContent = text;
    talk.append(line);
    talk.scrollTop = talk.scrollHeight;
    return line;
  };

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n\n");
      rest = whole.pop();
      for (const one of whole) {
        const found = /^event: (\w+)\ndata: (.*)$/.exec(one);
        if (found) yield [found[1], JSON.parse(found[2])];
      }
    }
  }

  async function ask(text) {
    const mine = { role: "user", content: text };
    say("you", text);
    let answer = null, thought = null, ended = false;
    asking = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    try {
      const response = await fetch(chat.dataset.to, {
        method: "POST", signal: asking.signal,
        headers: { "Content-Type": "application/json", "X-Token": chat.dataset.token },
        body: JSON.stringify({ messages: [...said, mine] }),
      });
      if (!response.ok) throw new Error(await response.text());
      for await (const [kind, data] of events(response)) {
        if (kind === "text") (answer ??= say("answer", "")).textContent += data;
        else if (kind === "thought") (thought ??= say("thought", "")).textContent += data;
        else if (kind === "failed") say("failed", data.hint ? `${data.error} · ${data.hint}` : data.error);
        else if (kind === "end") { ended = true; say("dim", `${data.model ?? ""} ${data.tokens ?? "?"} tokens, ${data.seconds} s`); }
        talk.scrollTop = talk.scrollHeight;
      }
      if (ended) said.push(mine, { role: "assistant", content: answer?.textContent ?? "" });
    } catch (error) {
      say("failed", error.name === "AbortError" ? "stopped" : error.message.slice(0, 500));
    }
    asking = null;
    send.disabled = false;
    stop.disabled = true;
    question.focus();
  }

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = question.value.trim();
    if (!text || asking) return;
    question.value = "";
    ask(text);
  });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); byId("ask").requestSubmit(); }
  });
  stop.addEventListener("click", () => asking?.abort());
  byId("forget").addEventListener("click", () => { said = []; talk.replaceChildren(); question.focus(); });
}
