"""The loop: collect, update, decide about the anchor, select."""
