"""Rollouts: rendering, the vLLM engine and the episode loop. Imported as `posttrain.rollout` only."""

if __name__ != "posttrain.rollout":
    raise ImportError("import posttrain.rollout, not rollout: this folder is the package posttrain.rollout")
