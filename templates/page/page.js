"use strict";
const $ = (id) => document.getElementById(id);
const form = $("scan"), field = $("serial");
let heard = performance.now(), lost = false;

function show(parts) {
  for (const {id, html} of parts) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;  // the server has escaped every value
    $(id)?.replaceWith(fresh.content);
  }
}
function listen() {
  const source = new EventSource("/events");
  source.onmessage = (message) => { heard = performance.now(); show(JSON.parse(message.data)); };
  source.onopen = () => { if (lost) location.reload(); };  // another server has another token
  source.onerror = () => {
    lost = true;
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const serial = field.value;
  field.value = "";
  field.focus();
  try {
    const reply = await fetch("/scan", {method: "POST", body: JSON.stringify({serial}),
      headers: {"Content-Type": "application/json", "X-CSRF-Token": form.dataset.token}});
    if (!reply.ok) throw new Error(await reply.text());
    show((await reply.json()).parts);
  } catch (error) {
    $("answer").className = "refused";
    $("answer").textContent = `NOT SENT: ${serial}. Scan it again. ${error.message}`;
  }
});
addEventListener("keydown", (event) => {
  if (event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) field.focus();
});
addEventListener("focus", () => field.focus());
addEventListener("click", () => { if (!String(getSelection())) field.focus(); });
setInterval(() => {
  $("away").hidden = !lost && performance.now() - heard < 12000;
  for (const each of document.querySelectorAll("[data-elapsed]")) {
    each.since ??= performance.now() - 1000 * each.dataset.elapsed;
    const s = Math.floor((performance.now() - each.since) / 1000), two = (n) => String(n).padStart(2, "0");
    each.textContent = `${s >= 3600 ? `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}` : Math.floor(s / 60)}:${two(s % 60)}`;
  }
}, 500);
listen();
field.focus();
