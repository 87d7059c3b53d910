"""Reinforcement learning of reasoning language models that stops paying for computation that no longer matters."""
