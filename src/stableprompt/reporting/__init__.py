"""A run as a page: reads what a run folder holds, writes one HTML file. No torch, no network."""
