// Hammers the counter from this tab. The page works without it.
"use strict";

const hammer = document.getElementById("hammer");
const status = document.getElementById("hammered");
const form = hammer.form;
const REQUESTS = 200;
const AT_ONCE = 6;

let taken = 0;

// With the form's CSRF token, if it has one. A request that was taken is answered by a redirect.
async function count() {
  const body = new URLSearchParams(new FormData(form));
  const answer = await fetch(form.action, { method: "POST", body, redirect: "manual" });
  taken += answer.type === "opaqueredirect" ? 1 : 0;
}

async function several(number) {
  for (let sent = 0; sent < number; sent += 1) {
    await count();
  }
}

hammer.hidden = false;
hammer.addEventListener("click", async () => {
  hammer.disabled = true;
  taken = 0;
  // The first one alone: it may make the session, and only the others then share it.
  await count();
  const each = Math.floor((REQUESTS - 1) / AT_ONCE);
  const rest = REQUESTS - 1 - each * AT_ONCE;
  await Promise.all(Array.from({ length: AT_ONCE }, (_, i) => several(each + (i < rest ? 1 : 0))));
  const page = new DOMParser().parseFromString(await (await fetch(form.action)).text(), "text/html");
  document.getElementById("counted").textContent = page.getElementById("counted").textContent;
  status.textContent = `${status.dataset.text} ${taken} / ${REQUESTS}`;
  hammer.disabled = false;
});
