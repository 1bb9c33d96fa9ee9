"""transformers alone on lines {"data": base64 of an image, "question"} → {"seconds" to one token, "prompt" tokens}."""

from __future__ import annotations

import base64
import io
import json
import sys
import time

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto", local_files_only=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
for line in sys.stdin:
    asked = json.loads(line)
    began = time.perf_counter()
    image = Image.open(io.BytesIO(base64.b64decode(asked["data"]))).convert("RGB")
    parts = [{"type": "image"}, {"type": "text", "text": asked["question"]}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )  # fmt: skip
    seen = processor([image], return_tensors="pt")
    tokens = int(seen["image_grid_thw"].prod()) // 4
    ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * tokens), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **seen, do_sample=False, max_new_tokens=1,
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
        )  # fmt: skip
    print(json.dumps({"seconds": time.perf_counter() - began, "prompt": ids.shape[1]}), flush=True)
