"""Load what an image-text checkpoint needs on torch: its transformers class and its processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmctl.domain import EngineSpec
from llmctl.engines.checkpoint import Checkpoint
from llmctl.engines.checkpoint_checks import read_config
from llmctl.errors import Unsupported


def model_class(spec: EngineSpec, checkpoint: Checkpoint) -> tuple[Any, Any] | None:
    """The image-text class and configuration of a checkpoint; None when its architecture is none of these.

    Unsupported, by the architecture's name, for one that is but cannot be run.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    auto_map = checkpoint.config.get("auto_map")
    if spec.allow_code and isinstance(auto_map, Mapping):
        if AutoModelForImageTextToText.__name__ not in auto_map:
            return None
        return AutoModelForImageTextToText, AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=True)
    name = checkpoint.architecture
    types = {key.lower(): key for key in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    model_type = types.get(name.lower())
    if model_type is None or model_type not in CONFIG_MAPPING:
        return None
    config = read_config(spec, checkpoint, CONFIG_MAPPING[model_type], model_type)
    quantization = checkpoint.config.get("quantization_config") or checkpoint.config.get("quantization")
    if config.is_encoder_decoder or (quantization is not None and "quant_method" not in quantization):
        why = "is an encoder-decoder" if config.is_encoder_decoder else "is quantized for MLX"
        raise Unsupported(f"{spec.model}: architecture {name!r} {why}; the torch engine does not support that")
    return AutoModelForImageTextToText, config


def load_processor(spec: EngineSpec, checkpoint: Checkpoint, config: Any) -> Any:
    """The checkpoint's processor. Only text and images are ever handed to it.

    Pillow prepares the images: torchvision, which transformers prefers, has no build for torch's CPU wheels. Where the
    processor wants it for films, it is made without films.
    """
    from transformers import AutoProcessor
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        try:
            read: Any = AutoProcessor.from_pretrained
            found = read(checkpoint.path, local_files_only=True, trust_remote_code=spec.allow_code)
        except ImportError:
            found = _still(spec, checkpoint, config)
    except Exception as error:
        why = " ".join(str(error).split())
        raise Unsupported(f"{spec.model}: its processor cannot be read: {why}"[:500]) from error
    if not hasattr(found, "image_processor"):
        raise Unsupported(f"{spec.model}: there is no image processor in its checkpoint")
    return found


def _still(spec: EngineSpec, checkpoint: Checkpoint, config: Any) -> Any:
    """The checkpoint's processor with a tokenizer and an image processor alone."""
    from transformers import AutoImageProcessor, AutoTokenizer

    original: Any = _processor_class(checkpoint, config)

    class Still(original):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    loaders: dict[str, Any] = {"tokenizer": AutoTokenizer, "image_processor": AutoImageProcessor}
    parts = {
        name: loader.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=spec.allow_code)
        for name, loader in loaders.items()
    }
    settings, more = original.get_processor_dict(checkpoint.path, local_files_only=True)
    return Still.from_args_and_dict([parts.get(name) for name in original.get_attributes()], settings, **more)


def _processor_class(checkpoint: Checkpoint, config: Any) -> Any:
    """The one that the checkpoint's files name, else that of its architecture."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for file in ("processor_config.json", "preprocessor_config.json"):
        try:
            named = json.loads((checkpoint.path / file).read_text(encoding="utf-8")).get("processor_class")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(named, str) and isinstance(found := getattr(transformers, named, None), type):
            return found
    return PROCESSOR_MAPPING[type(config)]
