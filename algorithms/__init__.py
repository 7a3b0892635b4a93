"""Algorithms: losses, advantages, and one algorithm a file. Imported as `posttrain.algorithms` only."""

if __name__ != "posttrain.algorithms":
    raise ImportError("import posttrain.algorithms, not algorithms: this folder is the package posttrain.algorithms")
