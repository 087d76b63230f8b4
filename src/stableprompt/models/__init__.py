"""Who speaks: the agent that writes prompts and the target that follows them.

The only floor that knows transformers, peft and accelerate.
"""
