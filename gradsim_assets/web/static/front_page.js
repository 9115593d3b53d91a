"use strict";
// How models stand takes seconds to find out on a large home: it is asked for behind the page, and again while it is looked at.
(() => {
  const SECONDS = 10;
  const shown = document.querySelectorAll("[data-state]");
  const look = async () => {
    let states = {}, words = "not known: the server does not answer";
    try {
      const answer = await fetch("/states");
      if (answer.ok) { states = await answer.json(); words = "not known"; }
    } catch { /* stopped, or started again at this moment */ }
    for (const one of shown) {
      const state = states[one.dataset.state] ?? words;
      if (one.textContent !== state) one.textContent = state;
      one.classList.toggle("good", state === "up to date");
      one.classList.toggle("late", state !== "up to date");
    }
    document.body.dataset.states = "yes";
  };
  const again = async () => {
    if (!document.hidden) await look();
    setTimeout(again, SECONDS * 1000);
  };
  again();
})();
