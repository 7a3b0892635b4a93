"""A trained model outside this toolkit: plain transformers, Qwen3-VL's tool loop. use_it.py FOLDER PICTURE QUESTION"""

import json
import re
import sys

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

ZOOM = json.loads("""{"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Zoom in on a specific region of an \
image by cropping it based on a bounding box (bbox) and an optional object label", "parameters": {"type": "object", "properties": {
"bbox_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": "The bounding box of the region to \
zoom in, as [x1, y1, x2, y2], where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner"},
"label": {"type": "string", "description": "The name or label of the object in the specified bounding box"},
"img_idx": {"type": "number", "description": "The index of the zoomed-in image (starting from 0)"}},
"required": ["bbox_2d", "label", "img_idx"]}}}""")


def ask(say, processor, picture, question):
    """Lets a model look until it answers. say: from the text so far and its images to what it says next."""
    images = [Image.open(picture).convert("RGB")]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    for _ in range(5):
        print(answer := say(processor.apply_chat_template(messages, tools=[ZOOM], tokenize=False, add_generation_prompt=True), images))
        if not (call := re.search(r"<tool_call>(.*?)</tool_call>", answer, re.DOTALL)):
            break
        arguments = json.loads(call[1])["arguments"]
        image = images[int(arguments["img_idx"])]
        box = [edge / 1000 * side for edge, side in zip(arguments["bbox_2d"], image.size * 2, strict=True)]
        images.append(image.crop(tuple(map(round, box))).resize((512, 512), Image.Resampling.BICUBIC))
        messages += [{"role": "assistant", "content": answer}, {"role": "tool", "content": [{"type": "image"}]}]


if __name__ == "__main__":
    processor, model = AutoProcessor.from_pretrained(sys.argv[1]), AutoModelForImageTextToText.from_pretrained(sys.argv[1])

    def say(text, images):
        """The likeliest next words."""
        inputs = processor(text=text, images=images, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        return processor.tokenizer.decode(written, skip_special_tokens=True)

    ask(say, processor, *sys.argv[2:])
