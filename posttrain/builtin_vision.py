"""builtin:tiny_vl: a Qwen3-VL of about 1.2 million random parameters, with tokenizer, chat template and image processor.

Weights are drawn at std = min(0.08, 1 / sqrt(fan_in)): at transformers' own 0.02 such a small model looks past its vision tower
for a long time. Image mean and deviation are 0.5, so that mid-grey is 0.
"""

from pathlib import Path
from typing import Any

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
NUM_CONTROL_TOKENS = 7
"""So many of them are left out of a decoded text; the others are part of what the policy says."""

TOKEN_PIXELS = 32
MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 4, 1024

# What Qwen3-VL's own template renders, written anew; a test holds it against the copy that TRL carries.
CHAT_TEMPLATE = """\
{%- set shown = namespace(image=0, video=0) -%}
{%- macro text_of(content) -%}
    {%- if content is string -%}{{- content -}}
    {%- else -%}{%- for part in content if 'text' in part -%}{{- part.text -}}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- macro parts_of(content) -%}
    {%- if content is string -%}{{- content -}}{%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
                {%- set shown.image = shown.image + 1 -%}
                {{- 'Picture ' ~ shown.image ~ ': ' if add_vision_id -}}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.type == 'video' or 'video' in part -%}
                {%- set shown.video = shown.video + 1 -%}
                {{- 'Video ' ~ shown.video ~ ': ' if add_vision_id -}}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set system = text_of(messages[0].content) if messages[0].role == 'system' -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {{- system ~ '\\n\\n' if messages[0].role == 'system' -}}
    {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' -}}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' -}}
    {%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments ' -}}
    {{- 'within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' -}}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' ~ system ~ '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {{- '<|im_start|>user\\n' -}}{{- parts_of(message.content) -}}{{- '<|im_end|>\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' -}}{{- text_of(message.content) -}}
        {%- for call in message.tool_calls or [] -%}
            {{- '\\n' if message.content or not loop.first -}}
            {%- set call = call.function or call -%}
            {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' -}}
            {%- if call.arguments is string -%}{{- call.arguments -}}{%- else -%}{{- call.arguments | tojson -}}{%- endif -%}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role == 'tool' -%}
        {{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' -}}
        {{- '\\n<tool_response>\\n' -}}{{- parts_of(message.content) -}}{{- '\\n</tool_response>' -}}
        {{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt -}}
"""


def build_tiny_vl(folder: Path) -> None:
    """Writes the model as a Hugging Face folder."""
    import torch
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    processor = _processor()
    tokenizer = processor.tokenizer
    eos, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer))
    draw_weights(model)
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def draw_weights(model: Any) -> None:
    """Draws every matrix of a model anew, normally with mean 0 and std = min(0.08, 1 / sqrt(fan_in))."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, min(0.08, fan_in**-0.5))


def config_of(tokenizer: Any, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    """A Qwen3-VL configuration around the sizes of its two halves; token ids and how the halves meet are filled in."""
    from transformers import Qwen3VLConfig

    ids = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    cut = {"patch_size": TOKEN_PIXELS // 2, "spatial_merge_size": 2, "out_hidden_size": text["hidden_size"]}
    return Qwen3VLConfig(
        text_config={**text, **tokens, "tie_word_embeddings": True},
        vision_config={**vision, **cut},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def rotary(theta: float) -> dict[str, Any]:
    """Qwen3-VL's rotary positions for heads of 32: 6, 5 and 5 frequencies for time, row and column, interleaved."""
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": [6, 5, 5], "mrope_interleaved": True}


def _config(tokenizer: Any) -> Any:
    text = {
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 8192,
        "rope_parameters": rotary(1e6),
    }
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_heads": 2,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1],
    }
    return config_of(tokenizer, text, vision)


def _processor() -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    from posttrain.builtin_models import train_bpe

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(list(SPECIAL_TOKENS[:NUM_CONTROL_TOKENS])), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS[NUM_CONTROL_TOKENS:]])
    pixels = {"patch_size": TOKEN_PIXELS // 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    sizes = {"shortest_edge": MIN_IMAGE_TOKENS * TOKEN_PIXELS**2, "longest_edge": MAX_IMAGE_TOKENS * TOKEN_PIXELS**2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=sizes, **pixels),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )
