"use strict";
// Asks for a trace, tells how it goes, and opens the page of what was found.
(() => {
  const MILLISECONDS = 400;
  const form = document.getElementById("ask");
  if (!form) return;
  const status = document.getElementById("status"), bar = document.getElementById("progress");
  const cancel = document.getElementById("cancel"), submit = form.querySelector('[type="submit"]');
  let job = null;

  const say = (words) => { if (status.textContent !== words) status.textContent = words; };
  const idle = (words) => {
    job = null;
    submit.disabled = false;
    cancel.hidden = bar.hidden = true;
    say(words);
  };
  const show = (told) => {
    if (told.error) return idle(told.error);
    if (told.state === "cancelled") return idle("Cancelled.");
    if (told.trace) { location.href = told.trace.page; return undefined; }
    job = told.job;
    cancel.hidden = bar.hidden = false;
    const { done, total, what } = told.progress;
    if (total) { bar.max = total; bar.value = done; } else bar.removeAttribute("value");
    say(told.ahead ? `Waiting; ${told.ahead} before this one.` : total ? `${done} of ${total} gradients (${what})` : "Loading the model …");
    setTimeout(look, MILLISECONDS);
    return undefined;
  };
  const look = async () => {
    if (!job) return;
    try {
      show(await (await fetch(`/api/trace/${job}`)).json());
    } catch { idle("The server does not answer."); }
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    say("Asking …");
    const given = Object.fromEntries(new FormData(form));
    const asked = { ...given, answer: given.answer.trim() ? given.answer : null, wait: 0 };
    try {
      const answer = await fetch("/api/trace", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) });
      show(await answer.json());
    } catch { idle("The server does not answer."); }
  });
  cancel.addEventListener("click", () => { if (job) fetch(`/api/trace/${job}`, { method: "DELETE" }); });
})();
