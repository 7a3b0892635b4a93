"""Data: where prompts come from, how they are split, and in which order they are used."""
