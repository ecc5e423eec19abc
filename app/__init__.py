"""Starboard: one prompt, a board of models, the best original reply with its evidence."""
