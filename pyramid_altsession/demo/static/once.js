// A second press on a button of a form marked data-once is not sent. The pages work without it.
"use strict";

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!("once" in form.dataset)) {
    return;
  }
  if (form.dataset.once === "sent") {
    event.preventDefault();
  }
  form.dataset.once = "sent";
});

// The page may come back from the browser's memory, to be sent again.
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-once]")) {
    form.dataset.once = "";
  }
});
