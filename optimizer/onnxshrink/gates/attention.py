"""Attention: as a layer that knows training from evaluation, and written out in matrix products.

The exporter knows the fused operator in some layouts only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

aten = torch.ops.aten
FUSED = aten.scaled_dot_product_attention.default


def written_out(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program without the fused operator.

    The answer of the fused operator lies in memory with heads and positions swapped, and what views it then relies on
    that: such views become reshapes. The program is changed.
    """
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    nodes = [node for graph in graphs for node in graph.nodes]
    if all(node.target is not FUSED for node in nodes):
        return program
    for node in nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default
    return program.run_decompositions({FUSED: attention})


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """What `torch.nn.functional.scaled_dot_product_attention` documents; NotImplemented with dropout.

    Args:
        query: [..., L, E].
        key: [..., S, E].
        value: [..., S, V].
        attn_mask: what is added to the scores or, if it is of booleans, which of them count, broadcast to [..., L, S].
            Rows of which nothing counts are zero.
        dropout_p: must be 0.
        is_causal: position l reads up to position l.
        scale: of the scores, by default 1/sqrt(E).
        enable_gqa: the third axis from the end of key and value repeats to that of the query.
    """
    if dropout_p:
        return NotImplemented
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = (query * root) @ (key.transpose(-2, -1) * root)
    counts = attn_mask if attn_mask is not None and attn_mask.dtype == torch.bool else None
    if is_causal:
        counts = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    elif attn_mask is not None and counts is None:
        scores = scores + attn_mask
    if counts is None:
        return scores.softmax(-1) @ value
    weights = scores.masked_fill(~counts, -torch.inf).softmax(-1)
    return weights.masked_fill(~counts, 0) @ value


class Attention(nn.Module):
    """Scaled dot-product attention that drops out in training only."""

    def __init__(self, dropout: float, causal: bool, scale: float | None, shared: bool) -> None:
        super().__init__()
        self.dropout, self.causal, self.scale, self.shared = dropout, causal, scale, shared

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return nn.functional.scaled_dot_product_attention(
            q, k, v, mask, dropout, self.causal, scale=self.scale, enable_gqa=self.shared
        )


def attention_of(node: Any) -> tuple[Attention, tuple[Any, ...]]:
    """The fused operator of a graph as a module, and what that reads."""
    defaults: tuple[Any, ...] = (None, 0.0, False)
    q, k, v, mask, rate, causal, *_ = tuple(node.args) + defaults[len(node.args) - 3 :]
    scale, shared = node.kwargs.get("scale"), bool(node.kwargs.get("enable_gqa"))
    return Attention(float(rate), bool(causal), scale, shared), (q, k, v) if mask is None else (q, k, v, mask)
