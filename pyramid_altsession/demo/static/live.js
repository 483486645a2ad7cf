// Shows the cart as the server tells of it, until the session ends.
"use strict";

const state = document.getElementById("state");
const lines = document.getElementById("lines");
const total = document.getElementById("total");
const ENDED = 1008;
const AGAIN = 1000; // milliseconds

let waits = false; // for a server that went away

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
  let opened = false;
  socket.addEventListener("open", () => {
    opened = true;
    waits = false;
    state.textContent = state.dataset.open;
  });
  socket.addEventListener("message", (event) => show(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => {
    if (event.code === ENDED || !(opened || waits)) {
      show({ lines: [], total: "" });
      state.textContent = state.dataset.over;
    } else {
      waits = true;
      state.textContent = state.dataset.away;
      setTimeout(connect, AGAIN);
    }
  });
}

connect();
