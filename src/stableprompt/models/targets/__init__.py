"""Targets: the frozen LLMs that follow a prompt."""
