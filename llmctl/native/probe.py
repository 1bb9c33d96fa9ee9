"""`python -m llmctl.native.probe FOLDER`: exits 0 when the libraries there load, are laid out as the engine knows them,
and multiply right in the types that models have. Run in a process of its own: a wrong instruction kills it.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, c_bool, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from llmctl.engines.llamacpp_library import Library, check_layout
from llmctl.native.builds import LIBRARY

F32, TYPES = 0, (0, 1, 2, 8, 12, 14, 30)  # f32, f16, q4_0, q8_0, q4_K, q6_K, bf16: of `enum ggml_type`
ROWS, WIDTH, TOKENS = 64, 512, 5
MEMORY = 16 * 2**20
CLOSE = 0.02


class Init(Structure):
    """`struct ggml_init_params`."""

    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


FUNCTIONS: dict[str, dict[str, tuple[Any, list[Any]]]] = {
    "libggml-base.so": {
        "ggml_init": (c_void_p, [Init]),
        "ggml_free": (None, [c_void_p]),
        "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
        "ggml_get_data": (c_void_p, [c_void_p]),
        "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
        "ggml_new_graph": (c_void_p, [c_void_p]),
        "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
        "ggml_quantize_chunk": (
            c_size_t, [c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, POINTER(c_float)],
        ),
    },
    "libggml-cpu.so": {"ggml_graph_compute_with_ctx": (c_int, [c_void_p, c_void_p, c_int])},
}  # fmt: skip


class Ggml:
    """The functions above, of the libraries in one folder."""

    def __init__(self, folder: Path) -> None:
        for name, functions in FUNCTIONS.items():
            library = ctypes.CDLL(str(folder / name))
            for function, (result, arguments) in functions.items():
                found = getattr(library, function)
                found.restype, found.argtypes = result, arguments
                setattr(self, function, found)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # tells type checkers that there are attributes they cannot see

    def product(self, type: int) -> list[float]:
        """A matrix of this type × one of float32: all ones in both, so that each element is WIDTH."""
        context = self.ggml_init(Init(MEMORY, None, False))
        weights = self.ggml_new_tensor_2d(context, type, WIDTH, ROWS)
        ones = (c_float * (WIDTH * ROWS))(*[1.0] * (WIDTH * ROWS))
        self.ggml_quantize_chunk(type, ones, self.ggml_get_data(weights), 0, ROWS, WIDTH, None)
        tokens = self.ggml_new_tensor_2d(context, F32, WIDTH, TOKENS)
        ctypes.memmove(self.ggml_get_data(tokens), ones, 4 * WIDTH * TOKENS)
        result, graph = self.ggml_mul_mat(context, weights, tokens), self.ggml_new_graph(context)
        self.ggml_build_forward_expand(graph, result)
        if self.ggml_graph_compute_with_ctx(context, graph, 2):
            raise SystemExit(f"ggml could not multiply in type {type}")
        found = list((c_float * (ROWS * TOKENS)).from_address(self.ggml_get_data(result)))
        self.ggml_free(context)
        return found


def main(folder: Path) -> None:
    """SystemExit with what is wrong."""
    library = Library(str(folder / LIBRARY))
    check_layout(library.context_default_params(), library.model_default_params())
    ggml = Ggml(folder)
    for type in TYPES:
        wrong = [x for x in ggml.product(type) if not abs(x - WIDTH) <= CLOSE * WIDTH]
        if wrong:
            raise SystemExit(f"ggml multiplies wrongly in type {type}: {wrong[0]}, not {WIDTH}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
