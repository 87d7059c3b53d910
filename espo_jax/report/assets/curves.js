// The curves, drawn by Plotly, whose script is megabytes and runs only once curves are looked at.

const COLOURS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'];  // Okabe and Ito
const DASHES = ['solid', 'dash', 'dot', 'dashdot'];
const curves = { over: 'updates', hidden: new Set(), shown: [] };

function colourOf(arm) { return COLOURS[arm % COLOURS.length]; }

function themed(layout) {
  const line = colour('--line'), ink = colour('--ink');
  const axis = { gridcolor: line, zerolinecolor: line, automargin: true };
  return {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: { color: ink, size: 12 },
    margin: { l: 50, r: 10, t: 10, b: 40 }, showlegend: false, hovermode: 'x unified',
    hoverlabel: { bgcolor: colour('--ground'), font: { color: ink } }, ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
}

const DRAWN = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'] };

// Plotly reads some tags in names.
function escaped(label) { return visible(label).replaceAll('&', '&amp;').replaceAll('<', '&lt;'); }

function drawChart(chart) {
  const traces = data.arms.flatMap((arm, i) => {
    const points = arm.metrics[chart.metric];
    if (!points) return [];
    const [at, y] = points;
    const over = arm.over[curves.over];
    return [{
      type: 'scatter', mode: y.length < 30 ? 'lines+markers' : 'lines', name: escaped(arm.label), visible: !curves.hidden.has(i),
      x: at ? at.map((j) => over[j]) : over, y: chart.percent ? y.map((v) => 100 * v) : y,
      line: { color: colourOf(i), width: 1.8, dash: DASHES[Math.floor(i / COLOURS.length) % DASHES.length] },
      hovertemplate: chart.percent ? '%{y:.1f} %' : '%{y:.4g}',
    }];
  });
  const layout = { xaxis: { title: { text: data.over[curves.over] } }, yaxis: { ticksuffix: chart.percent ? ' %' : '' } };
  Plotly.react(chart.div, traces, themed(layout), DRAWN);
}

function addChart(chart) {
  if (curves.shown.some((its) => its.metric === chart.metric)) return;
  const meaning = data.meanings[chart.metric];
  const told = meaning ? `${meaning[0]}${meaning[1] ? ` [${meaning[1]}]` : ''}` : '';
  const div = make('div', { className: 'chart' });
  const title = make('figcaption', {}, chart.title);
  if (told && told !== chart.title) title.append(make('small', {}, `${chart.metric}: ${told}`));
  const figure = make('figure', {}, title, div);
  figure.dataset.metric = chart.metric;
  byId('charts').append(figure);
  curves.shown.push({ ...chart, div });
  drawChart(curves.shown.at(-1));
}

function choice(kind, name, label, checked, changed) {
  const input = make('input', { type: kind, name, checked });
  input.addEventListener('change', () => changed(input.checked));
  return make('label', {}, input, ' ', ...label);
}

function startCurves() {
  document.head.append(make('script', { textContent: byId('plotly').textContent }));
  const known = new Set(data.arms.flatMap((arm) => Object.keys(arm.metrics)));
  Object.entries(data.over).forEach(([name, label]) => {
    byId('over').append(choice('radio', 'over', [label], name === curves.over, () => {
      curves.over = name;
      curves.shown.forEach(drawChart);
    }));
  });
  data.arms.forEach((arm, i) => {
    const swatch = make('span', { className: 'swatch' });
    swatch.style.background = colourOf(i);
    byId('arms').append(choice('checkbox', `arm${i}`, [swatch, ` ${visible(arm.label)}`], true, (on) => {
      if (on) curves.hidden.delete(i); else curves.hidden.add(i);
      curves.shown.forEach(drawChart);
    }));
  });
  [...known].sort().forEach((name) => byId('metric').append(make('option', { value: name }, name)));
  byId('metric').addEventListener('change', (event) => {
    const metric = event.target.value;
    if (metric) addChart({ metric, title: metric, percent: false });
    event.target.value = '';
  });
  data.charts.filter((chart) => known.has(chart.metric)).forEach(addChart);
}
