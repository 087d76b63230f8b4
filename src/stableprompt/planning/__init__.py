"""What a run would need on machines that are not here, on paper."""
