"""What serves a slot: the slot server (owns the socket) and the engine process (owns the model)."""
