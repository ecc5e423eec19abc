"""Many prompts in one go: `starboard batch`."""
