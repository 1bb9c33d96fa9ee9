"""The size of the next chunk of prompts."""

import pytest

from llmctl.engines.pace import ALONE, BESIDE_RUNNING, chunk


@pytest.mark.parametrize(
    ("tokens", "took", "alone", "expected"),
    [
        (100, 10.0, False, 32),  # slow: the smallest
        (100, 0.5, False, int(200 * BESIDE_RUNNING)),
        (100, 0.5, True, int(200 * ALONE)),
        (100, 0.001, True, 1024),  # fast: the largest
        (4, 60.0, True, 77),  # too few to tell: as before
    ],
)
def test_the_next_chunk_takes_no_longer_than_it_may(tokens, took, alone, expected):
    assert chunk(77, tokens, took, alone=alone, smallest=32, largest=1024) == expected
