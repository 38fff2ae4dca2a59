"""torch.export: programs that hold attention, run elsewhere and give what the layer gives."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tests.compiling import IDS, MASKS, NEAR, STATIC, causal, fresh, inputs, layer, qkv
from torch import Tensor, nn
from torch.export import Dim, export

import regard
from regard import masks

__all__ = ["fresh"]


class Masked(nn.Module):
    def __init__(self, mask) -> None:
        super().__init__()
        self.attend, self.mask = layer(), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, mask=self.mask)


def loaded(program, folder):
    torch.export.save(program, folder / "program.pt2")
    return torch.export.load(folder / "program.pt2").module()


def test_a_layer_is_exported():
    attend, x = regard.MultiHeadAttention(16, 4), inputs().detach()
    program = export(attend, (x,))
    torch.testing.assert_close(program.module()(x), attend(x), **NEAR)
    assert "regard.attend" in program.graph_module.code


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("strict", [False, True])
def test_a_constant_mask_is_exported_saved_and_loaded(name, strict, tmp_path):
    model, x = Masked(MASKS[name]), inputs().detach()
    program = export(model, (x,), strict=strict)
    torch.testing.assert_close(loaded(program, tmp_path)(x), model(x), **NEAR)


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_batch_and_length_are_free(name, strict, tmp_path):
    model = Masked(MASKS[name])
    dims = ({0: Dim("batch"), 1: Dim("length")},)
    module = loaded(export(model, (inputs().detach(),), dynamic_shapes=dims, strict=strict), tmp_path)
    for batch, length in ((2, 10), (1, 1), (5, 33)):
        x = inputs(batch, length).detach()
        torch.testing.assert_close(module(x), model(x), **NEAR)


def test_an_exported_model_trains_with_dropout():
    attend, x = layer(dropout=0.5), inputs().detach()
    module = export(attend, (x,)).module()
    torch.manual_seed(2)
    got = module(x)
    torch.manual_seed(2)
    torch.testing.assert_close(got, attend(x), **NEAR)
    assert not torch.equal(module(x), got)


def test_an_exported_program_is_loaded_where_regard_is_imported(tmp_path):
    model, x = Masked(masks.causal() & masks.documents(IDS)), inputs().detach()
    torch.export.save(export(model, (x,)), tmp_path / "program.pt2")
    torch.save((x, model(x)), tmp_path / "case.pt")
    script = (
        "import sys, torch, regard\n"
        "x, want = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(x), want)\n"
    )
    files = [str(tmp_path / name) for name in ("program.pt2", "case.pt")]
    done = subprocess.run([sys.executable, "-c", script, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_questions_that_cannot_be_exported_say_so():
    class Received(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return causal(q, k, v)[1].received()

    with pytest.raises(RuntimeError, match=r"weights.received cannot be exported"):
        export(Received(), tuple(t.detach() for t in qkv()))
