"""What is measured of a prompt: metrics by name, 0 to 1, over all correct answers (text only)."""
