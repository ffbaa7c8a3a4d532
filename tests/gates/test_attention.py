"""Attention written out is the fused operator, and files with it take any batch."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention as fused  # noqa: E402

from onnxshrink import gates  # noqa: E402
from onnxshrink.errors import InputError  # noqa: E402
from onnxshrink.gates.attention import attention  # noqa: E402

PARTLY = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]]).bool()
KINDS = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "masked, and one row altogether": {"attn_mask": PARTLY},
    "biased": {"attn_mask": torch.linspace(-2, 2, 20).view(1, 4, 5)},
    "biased by infinity": {"attn_mask": torch.where(PARTLY | (torch.arange(4) == 1)[:, None], 0.5, -torch.inf)},
    "grouped queries": {"enable_gqa": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_fused_operator(kind):
    torch.manual_seed(0)
    heads = 2 if kind == "grouped queries" else 6
    query, key, value = torch.randn(2, 6, 4, 8), torch.randn(2, heads, 5, 8), torch.randn(2, heads, 5, 3)
    expected = fused(query, key, value, **KINDS[kind])
    torch.testing.assert_close(attention(query, key, value, **KINDS[kind]), expected, rtol=1e-5, atol=1e-6)


class Windows(nn.Module):
    """Attention within windows: the fused operator has five axes, its mask leaves rows out."""

    def __init__(self, masked):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)
        self.mask = PARTLY[:, :4] if masked else None

    def forward(self, x):
        split = self.qkv(x).reshape(x.shape[0], 3, 4, 3, 2, 8).permute(3, 0, 4, 1, 2, 5)
        y = fused(*split.unbind(0), attn_mask=self.mask)
        return self.out(y.permute(0, 2, 3, 1, 4).reshape(x.shape[0], 12, 16))


@pytest.mark.parametrize("masked", [False, True])
def test_the_exported_file_computes_what_the_network_does(masked, tmp_path):
    torch.manual_seed(0)
    network, x = Windows(masked).eval(), torch.randn(5, 12, 16)
    gates.export(network, tmp_path / "windows.onnx", torch.zeros(2, 12, 16))
    session = onnxruntime.InferenceSession(tmp_path / "windows.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_network_that_has_its_batch_written_in_is_refused(tmp_path):
    class Fixed(Windows):
        def forward(self, x):
            return super().forward(x.reshape(2, 12, 16))

    with pytest.raises(InputError, match=r"Fixed cannot be exported by torch\.onnx with an open batch: "):
        gates.export(Fixed(False), tmp_path / "fixed.onnx", torch.zeros(2, 12, 16))
    assert not list(tmp_path.iterdir())
