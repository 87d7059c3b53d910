"""Decoders: which of the samples of a problem is the answer, and how many tokens that took.

A decoder is a pure function of the finished samples of one problem, from `Samples` to `Choice`. It runs on the host after the
sampling, so one recorded set of samples compares all decoders. It never sees whether a sample is right. A decoder that ends
samples early counts their tokens up to there. The count equals that of a run which stops them, because samples do not read each
other.

| decoder | the answer is that of | the tokens are those of |
|---|---|---|
| `first` | the first sample | the first sample |
| `majority` | most samples | all samples |
| `shortest` | the shortest sample | all samples |
| `best_by` | the sample with the highest score | all samples |
| `weighted` | the samples with most weight | all samples |
| `ffs` | the sample that ends first | all samples up to the step at which that one ends |
| `deepconf` | the most confident samples, by weight | all samples |
| `lt_select` | the first sample whose state moves straight ahead, else of most | the samples drawn until then |
| `deepconf_online` | samples that stay confident, by weight | the samples drawn before a consensus, up to where each ended |
| `er_prm_beam` | most beams of a search | all beams, rejected ones included |
| `leap` | most paths that read summaries of each other | all paths, summaries included |
| `revise` | most turns, each of which revises the ones before | all turns |
| `speculative` | most samples, which are drafted and verified | all samples, rejected drafts included |

A tie goes to the earliest sample. If no sample is fit to be chosen, a decoder that picks one sample takes the first, and a vote
has no answer. With one sample every decoder has the answer of that one.

The last four draw samples of their own: see `ways`. They take no recorded samples, and an evaluation has one of them alone.
"""

from espo_jax.decoders.best_by import best_by
from espo_jax.decoders.confidence import group_confidences
from espo_jax.decoders.deepconf import deepconf
from espo_jax.decoders.deepconf_online import deepconf_online
from espo_jax.decoders.er_prm_beam import er_prm_beam
from espo_jax.decoders.ffs import ffs, least_length
from espo_jax.decoders.first import first
from espo_jax.decoders.leap import leap
from espo_jax.decoders.lt_select import lt_select
from espo_jax.decoders.majority import majority
from espo_jax.decoders.peers import routed
from espo_jax.decoders.registered import REGISTRY, register
from espo_jax.decoders.revise import revise
from espo_jax.decoders.samples import ALWAYS, Choice, Decoder, Samples
from espo_jax.decoders.shortest import shortest
from espo_jax.decoders.speculative import speculative
from espo_jax.decoders.votes import Vote, vote
from espo_jax.decoders.ways import Beams, Dependent, Drawing, Exchange, Revision, Speculative
from espo_jax.decoders.weighted import weighted
from espo_jax.registry import import_files

import_files(__name__, __path__)

__all__ = [
  'ALWAYS',
  'REGISTRY',
  'Beams',
  'Choice',
  'Decoder',
  'Dependent',
  'Drawing',
  'Exchange',
  'Revision',
  'Samples',
  'Speculative',
  'Vote',
  'best_by',
  'deepconf',
  'deepconf_online',
  'er_prm_beam',
  'ffs',
  'first',
  'group_confidences',
  'leap',
  'least_length',
  'lt_select',
  'majority',
  'register',
  'revise',
  'routed',
  'shortest',
  'speculative',
  'vote',
  'weighted',
]
