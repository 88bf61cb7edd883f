"""Training: one loop for every trainable room, what a batch means for each, and exact checkpoints."""
