"""The picture of all methods on the same answers: what `scripts/draw_methods.py` reads off the two records."""

import json
import pathlib
import runpy

import pytest

SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parents[1] / 'scripts' / 'draw_methods.py'))


def spread(value, width=0.0):
  return {'value': value, 'interval': [value - width, value + width]}


def rule(saved, accuracy, ahead):
  vote = {'saved': spread(saved), 'accuracy': spread(accuracy)}
  return {'vote': vote, 'ahead': spread(ahead, 2.0)}


def decoder(name, accuracy, tokens, lead):
  point = {'accuracy': spread(accuracy), 'tokens': spread(tokens), 'lead': spread(lead, 0.01)}
  return {'name': name, **point, 'curve': [point]}


DECODERS = {
  'tokens': spread(1000.0),
  'decoders': [decoder('majority', 0.4, 1000.0, 0.0), decoder('shortest', 0.2, 600.0, -0.15)],
}
STOPS = {
  'vote': 0.4,
  'rules': {'idle': rule(0, 0, 0), 'first': rule(25, -1, 3), 'second': rule(25, -1, 3), 'third': rule(50, -10, -1)},
}


def test_methods_are_in_the_order_of_their_lead_and_rules_with_the_same_figures_are_one():
  found = SCRIPT['methods_of'](DECODERS, STOPS)
  assert [(method.label, method.tokens) for method in found] == [
    ('first, second', 750.0),
    ('third', 500.0),
    ('shortest', 600.0),
  ]
  assert [method.accuracy for method in found] == pytest.approx([39, 30, 20])
  assert [method.lead for method in found] == pytest.approx([3, -1, -15])
  assert found[0].interval == (1.0, 5.0) and found[2].interval == pytest.approx((-16, -14))


def test_the_picture_is_written(tmp_path, capsys):
  for name, record in (('decoders', DECODERS), ('stops', STOPS)):
    (tmp_path / f'{name}.json').write_text(json.dumps(record))
  output = tmp_path / 'methods.png'
  flags = [f'--decoders={tmp_path / "decoders.json"}', f'--stops={tmp_path / "stops.json"}', f'--output={output}']
  SCRIPT['main'](flags)
  assert output.read_bytes().startswith(b'\x89PNG') and f'wrote {output}' in capsys.readouterr().out
