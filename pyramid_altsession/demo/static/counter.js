// Hammers the counter from this tab. The page works without it.
"use strict";

const hammer = document.getElementById("hammer");
const status = document.getElementById("hammered");
const form = hammer.form;
const REQUESTS = 200;
const AT_ONCE = 6;

const count = () => fetch(form.action, { method: "POST", redirect: "manual" });

async function several(number) {
  for (let sent = 0; sent < number; sent += 1) {
    await count();
  }
}

hammer.hidden = false;
hammer.addEventListener("click", async () => {
  hammer.disabled = true;
  // The first one alone: it may make the session, and only the others then share it.
  await count();
  const each = Math.floor((REQUESTS - 1) / AT_ONCE);
  const rest = REQUESTS - 1 - each * AT_ONCE;
  await Promise.all(Array.from({ length: AT_ONCE }, (_, i) => several(each + (i < rest ? 1 : 0))));
  const page = new DOMParser().parseFromString(await (await fetch(form.action)).text(), "text/html");
  document.getElementById("counted").textContent = page.getElementById("counted").textContent;
  status.textContent = `${status.dataset.text} ${REQUESTS}`;
  hammer.disabled = false;
});
