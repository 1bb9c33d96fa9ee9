"""A process of its own: reads a GGUF file with OpenVINO GenAI's reader and writes OpenVINO's form of it into a folder.

It takes some three times the weights in memory, which end with it, and a malformed file can end nobody else. When its
standard input closes, the engine that wanted the form is gone, and it ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

MODEL = "openvino_model.xml"
NO_DEVICE = "NONE"
WIDENED = 100_000
"""Elements from which on a half-precision weight is stored in float32, see `widen`."""


def main(source: Path, folder: Path) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    read = folder / "read"
    read.mkdir()
    (read / "model.gguf").symlink_to(source)  # the reader writes beside the file that it is given
    save(read)
    widen(read / MODEL, folder / MODEL)
    shutil.rmtree(read)
    return 0


def save(folder: Path) -> None:
    """Have GenAI write its graph of `folder`'s model.gguf beside it.

    It has no call that only reads. A pipeline reads, writes, then wants a tokenizer, which it has not for every file,
    and a device, which is not there: whatever it says after it wrote does not matter.
    """
    import openvino_genai

    try:
        openvino_genai.LLMPipeline(str(folder / "model.gguf"), NO_DEVICE, enable_save_ov_model=True)
    except Exception:
        if not (folder / MODEL).is_file():
            raise


def widen(source: Path, target: Path) -> None:
    """Write the graph again with its large half-precision weights in float32.

    OpenVINO computes with its own copy of the weights, in the type that the CPU is fastest with, and keeps the
    original as float32 beside it: made from half precision that is memory, read from a file it is a mapping, whose
    pages go when somebody needs them.
    """
    import numpy as np
    import openvino
    from openvino import opset13

    model = openvino.Core().read_model(str(source))
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convert" and _is_plain(
            weight := node.input(0).get_source_output().get_node(), node
        ):
            wide = opset13.constant(np.asarray(weight.data, np.float32), dtype=np.float32)
            for place in node.output(0).get_target_inputs():
                place.replace_source_output(wide.output(0))
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, str(target), compress_to_fp16=False)


def _is_plain(weight: Any, node: Any) -> bool:
    """Whether a node converts a large half-precision weight, and not the scales of a quantized one."""
    import openvino

    if weight.get_type_name() != "Constant" or weight.get_output_element_type(0) != openvino.Type.f16:
        return False
    users = {place.get_node().get_type_name() for place in node.output(0).get_target_inputs()}
    return weight.data.size >= WIDENED and users <= {"MatMul", "Gather"}


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
