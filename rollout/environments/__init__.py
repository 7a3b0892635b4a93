"""Environments that a policy can play against, one a file; third parties register theirs as `posttrain.environments`."""
