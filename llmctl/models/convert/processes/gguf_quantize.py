"""Quantizes a GGUF file tensor by tensor, with ggml's own quantizers out of the library that xllamacpp carries."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from typing import Any

from llmctl.errors import ConversionFailed, Unsupported
from llmctl.models.checkpoint_gguf import FILE_TYPES
from llmctl.models.convert.gguf_types import Shape, Tensor, choose
from llmctl.models.convert.processes.serving import serve

CHUNK = 2**20  # elements that one thread takes at a time
PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


def convert(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """`source` file → `target` file as `quantization`; memory for about one tensor."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(request["source"])
    types = chosen(reader, request["quantization"])
    writer = gguf.GGUFWriter(request["target"], reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer, request["quantization"])
    by_name = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in by_name.items():
        kind = gguf.GGMLQuantizationType[types[name]]
        shape = tuple(int(length) for length in reversed(tensor.shape))
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # the shape in elements, whatever the data's own type: bytes (BF16) would be taken for packed ones
        writer.add_tensor_info(name, shape, np.dtype(np.float32), tensor.n_elements // block * size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, tensor in by_name.items():
            writer.write_tensor_data(stored(tensor, types[name], pool))
    writer.close()
    return {"tools": {name: version(name) for name in ("xllamacpp", "gguf")}}


def chosen(reader: Any, quantization: str) -> dict[str, str]:
    """The type of each tensor; Unsupported for a file that is quantized already."""
    tensors = []
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        if kind not in PLAIN:
            raise Unsupported(f"{tensor.name} is {kind} already")
        tensors.append(Tensor(tensor.name, int(tensor.shape[0]), len(tensor.shape), kind))
    return choose(tensors, quantization, shape_of(reader))


def shape_of(reader: Any) -> Shape:
    architecture = str(reader.fields["general.architecture"].contents())

    def number(key: str, usual: int = 0) -> int:
        field = reader.fields.get(f"{architecture}.{key}")
        value = field.contents() if field else usual
        return int(value[0] if isinstance(value, list) else value)

    heads = number("attention.head_count")
    kv_heads = number("attention.head_count_kv", heads)
    return Shape(architecture, number("block_count"), heads, kv_heads, number("expert_count"))


def copy_metadata(reader: Any, writer: Any, quantization: str) -> None:
    """All keys but those that speak of the file's own types and pieces."""
    import gguf

    replaced = ("general.file_type", "general.quantization_version", "general.architecture")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "split.")) and key not in replaced:
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, inner)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(next(number for number, name in FILE_TYPES.items() if name == quantization))


def stored(tensor: Any, wanted: str, pool: ThreadPoolExecutor) -> Any:
    """The tensor's data as `wanted`, rows in threads: ggml and numpy let go of the interpreter meanwhile."""
    import gguf
    import numpy as np

    if wanted == tensor.tensor_type.name:
        return tensor.data
    columns = int(tensor.shape[0])
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[wanted]]
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    result = np.empty((len(rows), columns // block * size), np.uint8)
    step = max(1, CHUNK // columns)
    parts = [slice(at, at + step) for at in range(0, len(rows), step)]
    for _ in pool.map(lambda part: _quantize(rows[part], tensor, wanted, result[part]), parts):
        pass
    return result


def _quantize(rows: Any, tensor: Any, wanted: str, result: Any) -> None:
    import gguf
    import numpy as np

    values = as_float32(rows, tensor.tensor_type.name)
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise ConversionFailed(f"{tensor.name} holds values that are not finite numbers")
    if wanted == "F16":
        result[:] = values.astype(np.float16).view(np.uint8)
        return
    kind = int(gguf.GGMLQuantizationType[wanted])
    data, out = values.ctypes.data, result.ctypes.data
    written = library().ggml_quantize_chunk(kind, data, out, 0, len(values), values.shape[1], None)
    if written != result.nbytes:
        raise ConversionFailed(f"{tensor.name}: ggml wrote {written} bytes as {wanted}, not {result.nbytes}")


def as_float32(rows: Any, kind: str) -> Any:
    """Rows of F32, F16 or BF16 (as bytes) as contiguous float32."""
    import numpy as np

    if kind == "BF16":
        halves = np.ascontiguousarray(rows).view(np.uint16)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(rows, np.float32)


@cache
def library() -> Any:
    """ggml, out of xllamacpp's extension module; Unsupported when its quantizers are not in it."""
    try:
        import xllamacpp.xllamacpp as package

        found = ctypes.CDLL(package.__file__)
        found.ggml_quantize_chunk.restype = ctypes.c_size_t
        found.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
            ctypes.c_void_p,
        ]  # fmt: skip
    except (ImportError, OSError, AttributeError) as error:
        raise Unsupported(f"ggml cannot be used: {error}", hint="install xllamacpp beside llmctl") from error
    return found


if __name__ == "__main__":
    serve(convert)
