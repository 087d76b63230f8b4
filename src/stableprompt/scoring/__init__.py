"""How good is a prompt: what the target makes of it, as scores and rewards."""
