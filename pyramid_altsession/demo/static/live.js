// Shows the cart as the server tells of it, until the session ends.
"use strict";

const state = document.getElementById("state");
const lines = document.getElementById("lines");
const total = document.getElementById("total");
const ENDED = 1008;
const AGAIN = 1000; // milliseconds

function row([name, number, amount]) {
  const cells = document.createElement("tr");
  cells.insertCell().textContent = name;
  cells.insertCell().textContent = number;
  cells.insertCell().textContent = amount;
  cells.lastChild.className = "amount";
  return cells;
}

function show(cart) {
  lines.replaceChildren(...cart.lines.map(row));
  total.textContent = cart.total;
}

function connect() {
  const socket = new WebSocket(`ws://${location.host}/cart`);
  let shown = false;
  socket.addEventListener("message", (event) => {
    shown = true;
    state.textContent = state.dataset.open;
    show(JSON.parse(event.data));
  });
  socket.addEventListener("close", (event) => {
    const ended = event.code === ENDED;
    if (ended) show({ lines: [], total: "" });
    if (ended && !shown) {
      state.textContent = state.dataset.over;
    } else { // the server went away, or the visitor has signed in and has another cookie
      state.textContent = state.dataset.away;
      setTimeout(connect, AGAIN);
    }
  });
}

connect();
