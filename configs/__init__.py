"""The YAML files: config.yaml and the groups model/, task/ and cluster/. Imported as `posttrain.configs` only."""

if __name__ != "posttrain.configs":
    raise ImportError("import posttrain.configs, not configs: this folder is the package posttrain.configs")
