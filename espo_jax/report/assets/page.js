// What the parts of the page share.

const data = JSON.parse(document.getElementById('data').textContent);

function byId(id) { return document.getElementById(id); }

// Makes an element. Children are elements or texts: no text of a model is ever parsed as HTML.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Returns a text in which control and bidirectional characters are written out, cut to `most` characters.
function visible(text, most = Infinity) {
  const whole = String(text), end = whole.length > most ? `\u2026 (${whole.length} characters)` : '';
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
  const cut = end ? whole.slice(0, most) : whole;
  return cut.replace(hidden, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`) + end;
}

// Returns a colour of the style sheet as the browser computes it, for drawings, which do not know the sheet.
const colours = new Map();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => colours.clear());
function colour(name) {
  if (!colours.has(name)) colours.set(name, computedColour(name));
  return colours.get(name);
}

function computedColour(name) {
  const probe = document.body.appendChild(make('i', { hidden: true }));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
