// The tabs. A part is drawn when its tab is first opened.

const starts = { curves: startCurves, rollouts: startRollouts };

function openTab(part) {
  document.querySelectorAll('[role="tabpanel"]').forEach((panel) => { panel.hidden = panel.id !== part; });
  document.querySelectorAll('[role="tab"]').forEach((tab) => {
    tab.setAttribute('aria-selected', String(tab.getAttribute('aria-controls') === part));
  });
  starts[part]?.();
  delete starts[part];
}

document.querySelectorAll('[role="tab"]').forEach((tab) => {
  tab.addEventListener('click', () => { history.replaceState(null, '', `#${tab.getAttribute('aria-controls')}`); });
  tab.addEventListener('click', () => openTab(tab.getAttribute('aria-controls')));
});
openTab(byId(location.hash.slice(1))?.matches('[role="tabpanel"]') ? location.hash.slice(1) : 'results');

// A page of a run that goes on loads itself again, but not while somebody reads a rollout.
if (data.every) {
  setInterval(() => { if (byId('rollouts').hidden) location.reload(); }, 1000 * data.every);
}
