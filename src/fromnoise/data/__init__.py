"""Images as batches in [-1, 1]."""
