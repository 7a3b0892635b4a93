"""Tools that a policy can call between turns, one a file; third parties register theirs as `posttrain.tools`."""
