"""What is left on disk: the run folder and its checkpoints."""
