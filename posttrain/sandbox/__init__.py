"""Running code that nobody has read: `runner.run`. Empty, because every sandbox imports it anew."""
