"""Environments of the package `verifiers` over a few rows, which need no network. A run names this file by `--plugins`.

The package is imported in the functions, because a training loads this file too.
"""

import json
import time


def single(rows: int = 40, evaluated: int = 0):
  """One turn, which is right if it is the sum. Some rows may be for evaluations."""
  import verifiers as vf
  from datasets import Dataset

  def data(numbers):
    return Dataset.from_list([{'question': f'What is {n} + {n}?', 'answer': str(2 * n)} for n in numbers])

  def right(completion, answer):
    return float(completion[-1]['content'].strip() == answer)

  def short(completion):
    return 1 / (1 + len(completion[-1]['content']))

  return vf.SingleTurnEnv(
    dataset=data(range(rows)),
    eval_dataset=data(range(rows - evaluated, rows + evaluated)) if evaluated else None,
    rubric=vf.Rubric(funcs=[right, short], weights=[0.75, 0.25]),
    system_prompt='Be brief.',
  )


def talking(turns: int = 3, log: str = ''):
  """Answers each turn, in a way that the turn asks for, until a turn is the answer of the row.

  Args:
    turns: The most turns.
    log: The file to which the conversations are appended as they end; '' for none.
  """
  import verifiers as vf
  from datasets import Dataset

  class Talking(vf.MultiTurnEnv):
    async def setup_state(self, state):
      state['asked'] = 0
      return state

    async def env_response(self, messages, state, **kwargs):
      said = messages[-1]['content']
      state['asked'] += 1
      if said == 'raise':
        raise KeyError('asked for it')
      if said == 'hang':
        time.sleep(60)
      if said == 'twice':
        return [{'role': 'user', 'content': 'one'}, {'role': 'user', 'content': 'two'}]
      if said == 'system':
        return [{'role': 'system', 'content': 'other'}]
      return [{'role': 'user', 'content': 'x' * 200_000 if said == 'flood' else f'{state["asked"]}: not {said}'}]

    async def get_prompt_messages(self, state):
      messages = await super().get_prompt_messages(state)
      said = [step['completion'][-1]['content'] for step in state['trajectory']]
      if 'rewrite' in said:
        return [{'role': 'user', 'content': 'Another question'}, *messages[1:]]
      return messages[2:] if 'forget' in said else messages

    @vf.stop
    async def guessed(self, state):
      return bool(state['trajectory']) and state['trajectory'][-1]['completion'][-1]['content'] == state['answer']

  def early(prompt, completion, answer, state):
    if log:
      said = [message if isinstance(message, dict) else message.model_dump() for message in [*prompt, *completion]]
      with open(log, 'a') as file:
        file.write(json.dumps([{'role': of['role'], 'content': of['content']} for of in said]) + '\n')
    return float(completion[-1]['content'] == answer) / (1 + state['asked'])

  rows = Dataset.from_list([{'question': f'Guess {n}', 'answer': str(n)} for n in range(20)])
  return Talking(dataset=rows, rubric=vf.Rubric(funcs=[early]), max_turns=turns, system_prompt='Be brief.')


def add(a: int, b: int) -> int:
  """Adds two numbers.

  Args:
    a: The first number.
    b: The second number.
  """
  return a + b


def tools():
  """A tool that adds. The answer has to name the sum."""
  import verifiers as vf
  from datasets import Dataset

  def right(completion, answer):
    return float(answer in (completion[-1]['content'] or ''))

  rows = Dataset.from_list([{'question': f'{n} + 1 = ?', 'answer': str(n + 1)} for n in range(20)])
  return vf.ToolEnv(tools=[add], dataset=rows, rubric=vf.Rubric(funcs=[right]), max_turns=4)
