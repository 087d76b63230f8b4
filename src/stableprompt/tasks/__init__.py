"""What is tuned: examples, splits, label words, templates, meta-prompts and metrics (text only)."""
