"""The maths of PPO with an anchor: pure functions over tensors, no models and no config.

Shapes: ``P`` prompts of a step, ``T`` response tokens (right-padded), ``Q`` query tokens.
"""
