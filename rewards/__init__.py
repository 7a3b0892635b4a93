"""Rewards: the manager, the base class, and one reward a file. Imported as `posttrain.rewards` only."""

if __name__ != "posttrain.rewards":
    raise ImportError("import posttrain.rewards, not rewards: this folder is the package posttrain.rewards")
