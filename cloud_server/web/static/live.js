// Live figures by server-sent events. Only text is set, never markup: what a device says stays text.
"use strict";
const own = document.currentScript;
const state = document.getElementById("live");
const places = new Map();
for (const place of document.querySelectorAll("[data-live]")) places.set(place.dataset.live, place);
const rows = new Map();
for (const row of document.querySelectorAll("[data-class]")) rows.set(row.dataset.class, row);

let told = "";
function tell(text) { // said once: a screen reader need not hear of every figure
  if (text !== told) { told = text; state.textContent = text; }
}

const events = new EventSource(own.dataset.events);
events.onmessage = (event) => {
  for (const [key, text] of Object.entries(JSON.parse(event.data))) {
    if (key.startsWith("class ")) {
      const row = rows.get(key.slice(6));
      if (row) row.className = text;
    } else {
      const place = places.get(key);
      if (place && place.textContent !== text) place.textContent = text;
    }
  }
  tell("Live: figures change as devices report.");
};
events.addEventListener("reload", () => { events.close(); location.reload(); });
events.onerror = () => tell("Not live: the server cannot be reached. Figures are old.");
