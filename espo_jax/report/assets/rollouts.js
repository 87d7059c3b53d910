// The viewer of rollouts: a filtered list, the tokens of one of them in colour, and its score along the tokens.

const NAMES = {
  regret: 'regret, nats', z: 'score z', threshold: 'threshold', values: 'value', logprobs: 'log-probability, nats',
  entropy: 'entropy, nats', depth: 'depth, share of the blocks',
};
const ENDS = { eos: 'ended', stopped: 'stopped', pruned: 'stopped', settled: 'stopped', length: 'cut' };
const AT_A_TIME = 200;
const viewer = { kept: [], shown: -1, drawn: 0, row: null, series: {}, turn: [], at: -1, colour: 'regret' };

function bytes(text) { return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)); }

function integers(text) { return new Uint32Array(bytes(text).buffer); }

function halves(text) {
  const raw = new Uint16Array(bytes(text).buffer);
  return Float32Array.from(raw, (bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
  });
}

function textsOf(row) { return Array.from(integers(row.tokens), (token) => data.rollouts.texts[token]); }

function verdictOf(row) { return row.correct === null ? 'unknown' : row.correct ? 'right' : 'wrong'; }

function outcomeOf(row) {
  const verdict = verdictOf(row);
  if (ENDS[row.reason] !== 'stopped') {
    return `${verdict}, ${row.reason === 'length' ? 'cut at the horizon' : `ended after ${row.length} tokens`}`;
  }
  if (row.reason === 'settled') return `${verdict}, settled at token ${row.length}`;
  const would = { right: ', would have been right', wrong: ', would have been wrong', unknown: '' }[verdict];
  return `${row.reason} at token ${row.length}${row.shadow ? ` of ${row.count}${would}` : ''}`;
}

function armOf(row) { return data.arms.find((arm) => arm.run === row.run && arm.name === row.arm); }

function searched(row) {
  row.searched ??= `${row.question}\n${textsOf(row).join('')}`.toLowerCase();
  return row.searched;
}

function filterRows() {
  const chosen = (id) => new Set([...byId(id).querySelectorAll('input:checked')].map((input) => input.value));
  const verdicts = chosen('verdicts'), ends = chosen('ends');
  const arm = byId('arm').value, source = byId('source').value, words = byId('search').value.toLowerCase();
  viewer.kept = data.rollouts.rows.filter((row) =>
    (arm === '' || data.arms.indexOf(armOf(row)) === Number(arm)) && (source === '' || row.source === source)
    && verdicts.has(verdictOf(row)) && ends.has(ENDS[row.reason]) && (!byId('shadow').checked || row.shadow)
    && (words === '' || searched(row).includes(words)));
  byId('count').textContent = `${viewer.kept.length} of ${data.rollouts.rows.length} rollouts`;
  byId('list').replaceChildren();
  viewer.drawn = 0;
  drawMore();
  if (viewer.kept.length) show(0); else byId('shown').hidden = true;
}

function drawMore() {
  const until = Math.min(viewer.drawn + AT_A_TIME, viewer.kept.length);
  for (let i = viewer.drawn; i < until; i++) {
    const row = viewer.kept[i];
    const button = make('button', { type: 'button', className: verdictOf(row) }, `${outcomeOf(row)}: ${visible(row.question, 120)}`);
    button.addEventListener('click', () => show(i));
    byId('list').append(make('li', {}, button));
  }
  viewer.drawn = until;
  byId('more').hidden = until === viewer.kept.length;
}

function show(i) {
  if (i < 0 || i >= viewer.kept.length) return;
  while (i >= viewer.drawn) drawMore();
  byId('list').querySelector('[aria-current]')?.removeAttribute('aria-current');
  const button = byId('list').children[i].firstChild;
  button.setAttribute('aria-current', 'true');
  button.scrollIntoView({ block: 'nearest' });
  const row = viewer.kept[i];
  Object.assign(viewer, { shown: i, row, at: -1, texts: textsOf(row) });
  viewer.turn = row.turn === null ? [] : new Int32Array(bytes(row.turn).buffer);  // -1: an environment wrote the token
  viewer.series = Object.fromEntries(Object.entries(row.series).map(([name, text]) => [name, halves(text)]));
  byId('shown').hidden = false;
  byId('outcome').textContent = outcomeOf(row);
  byId('outcome').className = verdictOf(row);
  const facts = { arm: visible(armOf(row)?.label ?? row.arm), sampled: row.source };
  if (row.answer !== null) facts['read as the answer'] = visible(row.answer, 500) || '(nothing)';
  if (viewer.turn.length) facts.turns = `${Math.max(...viewer.turn) + 1}`;
  byId('facts').replaceChildren(...Object.entries(facts).flatMap(([name, its]) => [make('dt', {}, name), make('dd', {}, its)]));
  byId('question').textContent = visible(row.question);
  const known = Object.keys(viewer.series).filter((name) => name !== 'threshold');
  byId('colour').replaceChildren(...known.map((name) => make('option', { value: name }, NAMES[name])));
  if (!known.includes(viewer.colour)) viewer.colour = known[0];
  byId('colour').value = viewer.colour;
  drawTokens();
  byId('readout').textContent = 'Point at a token, or go along the tokens with shift and an arrow key.';
}

function extent(series) {
  let low = Infinity, high = -Infinity;
  for (const value of series) {
    if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  return low <= high ? [low, high] : [0, 0];
}

function drawTokens() {
  const series = viewer.series[viewer.colour] ?? [], [low, high] = extent(series);
  const inverted = viewer.colour === 'logprobs' || viewer.colour === 'values';  // the lowest is the one to look at
  const parts = document.createDocumentFragment();
  viewer.texts.forEach((text, t) => {
    const span = make('span', { className: isObserved(t) ? 'observed' : t < viewer.row.length ? '' : 'after' }, marked(text));
    span.dataset.token = t;
    const strength = t < viewer.row.length ? 0.75 : 0.3;  // so that grey text can be read
    const share = (series[t] - low) / (high - low);  // not a number where all are equal
    if (Number.isFinite(share)) span.style.background = `rgba(213, 94, 0, ${(strength * (inverted ? 1 - share : share)).toFixed(3)})`;
    parts.append(span);
    if (t === viewer.row.length - 1 && ENDS[viewer.row.reason] === 'stopped') parts.append(make('b', { title: 'the stop' }, '\u25a0'));
  });
  byId('tokens').replaceChildren(parts);
  byId('scale').textContent = series.length ? `${inverted ? 'strongest at the lowest: ' : ''}${number(low)} to ${number(high)}` : '';
  drawStrip();
}

function isObserved(t) { return viewer.turn.length > 0 && viewer.turn[t] < 0; }

function number(value) { return Number.isFinite(value) ? value.toPrecision(3) : value === Infinity ? 'never' : '-'; }

function marked(text) { return visible(text, 300).replaceAll('\n', '\u21b5\n') || '\u00b7'; }

function drawStrip() {
  const canvas = byId('strip'), { z = [], threshold = [] } = viewer.series;
  canvas.width = canvas.clientWidth;
  const { width, height } = canvas, context = canvas.getContext('2d'), count = viewer.texts.length;
  context.clearRect(0, 0, width, height);
  const both = [...extent(z), ...(threshold.length ? extent(threshold) : [])];
  const low = Math.min(...both), high = Math.max(...both), span = high - low || 1;
  const x = (t) => (t + 0.5) / count * width, y = (value) => height - 12 - (value - low) / span * (height - 24);
  const line = (series, name, dashes) => {
    context.beginPath();
    context.strokeStyle = colour(name);
    context.setLineDash(dashes);
    let begun = false;
    for (let t = 0; t < series.length; t++) {
      if (!Number.isFinite(series[t])) { begun = false; continue; }
      if (begun) context.lineTo(x(t), y(series[t])); else context.moveTo(x(t), y(series[t]));
      begun = true;
    }
    context.stroke();
  };
  const upright = (t, name) => {
    context.beginPath();
    context.strokeStyle = colour(name);
    context.setLineDash([]);
    context.moveTo(x(t), 0);
    context.lineTo(x(t), height);
    context.stroke();
  };
  line(z, '--z', []);
  line(threshold, '--threshold', [5, 4]);
  if (ENDS[viewer.row.reason] === 'stopped') upright(viewer.row.length - 1, '--wrong');
  if (viewer.at >= 0) upright(viewer.at, '--quiet');
  context.fillStyle = colour('--ink');
  context.fillText('z (line) and threshold (dashed)', 6, 10);
}

function pointAt(t) {
  if (t === viewer.at || t < 0 || t >= viewer.texts.length) return;
  byId('tokens').querySelector('.at')?.classList.remove('at');
  viewer.at = t;
  byId('tokens').querySelector(`[data-token="${t}"]`).classList.add('at');
  const told = Object.entries(viewer.series).map(([name, series]) => `${NAMES[name]} ${number(series[t])}`);
  const where = t < viewer.row.length ? '' : ' (after the stop, for measurement only)';
  const turn = viewer.turn.length && !isObserved(t) ? `, turn ${viewer.turn[t] + 1}` : '';
  const numbers = isObserved(t) ? 'written by the environment' : told.join('; ');
  byId('readout').textContent = `token ${t + 1}${turn}${where} ${JSON.stringify(visible(viewer.texts[t], 60))}: ${numbers}`;
  drawStrip();
}

function boxes(id, names) {
  names.forEach((value) => {
    const input = make('input', { type: 'checkbox', value, checked: true });
    byId(id).append(make('label', {}, input, ` ${value}`));
  });
}

function startRollouts() {
  const any = () => make('option', { value: '' }, 'all');
  byId('arm').append(any(), ...data.arms.map((arm, i) => make('option', { value: i }, visible(arm.label))));
  const sources = [...new Set(data.rollouts.rows.map((row) => row.source))];
  byId('source').append(any(), ...sources.map((source) => make('option', { value: source }, source)));
  boxes('verdicts', ['right', 'wrong', 'unknown']);
  boxes('ends', ['ended', 'stopped', 'cut']);
  byId('filters').addEventListener('input', filterRows);
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('more').addEventListener('click', drawMore);
  byId('previous').addEventListener('click', () => show(viewer.shown - 1));
  byId('next').addEventListener('click', () => show(viewer.shown + 1));
  byId('colour').addEventListener('change', (event) => { viewer.colour = event.target.value; drawTokens(); });
  byId('tokens').addEventListener('pointerover', (event) => {
    if (event.target.dataset.token !== undefined) pointAt(Number(event.target.dataset.token));
  });
  const along = (event) => pointAt(Math.floor(event.offsetX / byId('strip').clientWidth * viewer.texts.length));
  byId('strip').addEventListener('pointermove', along);
  byId('strip').addEventListener('click', () => byId('tokens').querySelector('.at')?.scrollIntoView({ block: 'nearest' }));
  document.addEventListener('keydown', (event) => {
    if (byId('rollouts').hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches('[role="tab"]') && event.key.startsWith('Arrow')) return;
    if (event.target.matches('input[type="search"], select')) { if (event.key === 'Escape') event.target.blur(); return; }
    if (event.shiftKey && event.key === 'ArrowRight') pointAt(viewer.at + 1);
    else if (event.shiftKey && event.key === 'ArrowLeft') pointAt(viewer.at - 1);
    else if (event.key === 'ArrowRight' || event.key === 'j') show(viewer.shown + 1);
    else if (event.key === 'ArrowLeft' || event.key === 'k') show(viewer.shown - 1);
    else if (event.key === '/') { byId('search').focus(); event.preventDefault(); }
  });
  filterRows();
}
