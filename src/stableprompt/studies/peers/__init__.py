"""Prompt optimisers of peers, run through their own packages at an equal number of target calls."""
