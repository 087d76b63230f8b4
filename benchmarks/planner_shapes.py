"""The models of random weights that the planner is measured with."""

from collections.abc import Mapping
from typing import Final

from stableprompt.scaling.shapes import Shape


def shape(name: str, layers: int, hidden: int, heads: int, kv_heads: int, inner: int) -> Shape:
    """A Llama with heads of 64 and 32768 tokens, its output layer the embeddings."""
    return Shape(name, layers, hidden, heads, kv_heads, 64, inner, 32768, tied=True)


FITTED: Final = (
    shape("3M", 4, 256, 4, 2, 768),
    shape("25M", 8, 512, 8, 4, 1536),
    shape("79M", 16, 640, 10, 5, 1920),
)
"""Linear parameters; the constants come from these."""
BETWEEN: Final = (shape("21M", 12, 384, 6, 2, 1152), shape("106M", 30, 576, 9, 3, 1536))
LARGER: Final = (shape("302M", 24, 1024, 16, 8, 3072), shape("772M", 16, 2048, 32, 8, 6144))
SHAPES: Final[Mapping[str, Shape]] = {s.name: s for s in (*FITTED, *BETWEEN, *LARGER)}
