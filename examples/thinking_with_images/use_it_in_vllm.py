"""The same in plain vLLM: use_it_in_vllm.py FOLDER PICTURE QUESTION"""

import sys

from transformers import AutoProcessor
from use_it import ask
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], max_model_len=2048, limit_mm_per_prompt={"image": 6})
    greedy = SamplingParams(temperature=0, max_tokens=64)

    def say(text, images):
        """The likeliest next words."""
        return llm.generate({"prompt": text, "multi_modal_data": {"image": images}}, greedy, use_tqdm=False)[0].outputs[0].text

    ask(say, AutoProcessor.from_pretrained(sys.argv[1]), *sys.argv[2:])
