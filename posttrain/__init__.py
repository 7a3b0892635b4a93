"""posttrain: post-training of language and vision-language models with Ray, vLLM and DeepSpeed."""

__version__ = "0.1.0"
