"""Flat parameters: the module is as before, the bytes lie where the layout says."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from tests.unit.actors.tiny import build, one_document, tokens


def module(width: int = 5) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.LayerNorm(width), nn.Linear(width, 2))


def flat(width: int = 5) -> FlatParameters:
    return FlatParameters(module(width), section_of)


def padding_bytes(parameters: FlatParameters) -> list[int]:
    used = {b for e in parameters.entries for b in range(e.offset, e.offset + e.num_bytes)}
    return [b for b in range(parameters.total_bytes) if b not in used]


def test_relocating_changes_no_output() -> None:
    ours, x = module(), torch.randn(4, 3)
    before = ours(x)
    FlatParameters(ours, section_of)
    assert torch.equal(ours(x), before)


def test_relocating_changes_no_output_of_a_model_with_tied_weights() -> None:
    layer, plain = build("gpt2")
    FlatParameters(layer, section_of)
    ids = tokens(2, 5)
    assert torch.equal(layer(ids, one_document(ids)).logits_BTV, plain(input_ids=ids).logits)


def test_tied_weights_stay_tied() -> None:
    layer, _ = build("gpt2")
    FlatParameters(layer, section_of)
    embedding, head = layer.model.get_input_embeddings(), layer.model.get_output_embeddings()
    assert embedding.weight.data_ptr() == head.weight.data_ptr()


def test_tied_weights_are_laid_out_once() -> None:
    layer, _ = build("gpt2")
    sizes = [p.numel() for p in layer.parameters()]
    entries = FlatParameters(layer, section_of).entries
    assert sum(e.num_bytes for e in entries) == 4 * sum(sizes)


def test_what_is_written_into_the_buffer_is_what_the_module_computes_with() -> None:
    ours = module()
    FlatParameters(ours, section_of).buffer.zero_()
    assert torch.equal(ours(torch.randn(4, 3)), torch.zeros(4, 2))


def test_every_parameter_lies_at_its_entry() -> None:
    ours = module()
    parameters = FlatParameters(ours, section_of)
    named = dict(ours.named_parameters())
    raw = parameters.to_bytes()
    for entry in parameters.entries:
        lying = raw[entry.offset : entry.offset + entry.num_bytes].view(np.float32)
        assert lying.tolist() == named[entry.name].flatten().tolist()


def test_entries_are_aligned_and_do_not_overlap() -> None:
    parameters = flat()
    end = 0
    for entry in parameters.entries:
        assert entry.offset % 64 == 0
        assert entry.offset >= end
        end = entry.offset + entry.num_bytes


def test_sections_lie_in_alphabetical_order() -> None:
    assert flat().sections() == ["decay:torch.float32", "no_decay:torch.float32"]


def test_each_dtype_has_a_section_of_its_own() -> None:
    ours = module()
    ours[3].to(torch.bfloat16)
    sections = FlatParameters(ours, section_of).sections()
    assert sections == [
        "decay:torch.bfloat16",
        "decay:torch.float32",
        "no_decay:torch.bfloat16",
        "no_decay:torch.float32",
    ]


def test_a_section_holds_its_parameters_and_zeros_between_them() -> None:
    ours = module()
    section = FlatParameters(ours, section_of).section("no_decay:torch.float32")
    vectors = [p for p in ours.parameters() if p.dim() == 1]
    assert section.double().sum().item() == pytest.approx(
        sum(p.double().sum().item() for p in vectors)
    )


def test_the_layouts_of_two_equally_built_modules_are_equal() -> None:
    assert flat().layout_hash == flat().layout_hash


def test_the_layout_depends_on_the_shapes() -> None:
    assert flat(5).layout_hash != flat(6).layout_hash


def test_the_layout_depends_on_the_names() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = module()[0], module()[2], module()[3]

    assert FlatParameters(Other(), section_of).layout_hash != flat().layout_hash


def test_the_layout_depends_on_the_dtypes() -> None:
    assert FlatParameters(module().bfloat16(), section_of).layout_hash != flat().layout_hash


def test_the_layout_depends_on_the_order_of_the_sections() -> None:
    def reversed_section_of(name: str, parameter: Tensor) -> str:
        return "a" if section_of(name, parameter) == "no_decay" else "b"

    assert FlatParameters(module(), reversed_section_of).layout_hash != flat().layout_hash


def test_the_layout_does_not_depend_on_the_values() -> None:
    parameters = flat()
    before = parameters.layout_hash
    parameters.buffer.fill_(7)
    assert parameters.layout_hash == before


def test_the_digest_is_the_sha256_of_names_shapes_dtypes_and_bytes() -> None:
    ours = module()
    want = hashlib.sha256()
    for name, p in sorted(ours.named_parameters()):
        want.update(f"{name} {p.dtype} {list(p.shape)}".encode())
        want.update(p.detach().numpy().tobytes())
    assert FlatParameters(ours, section_of).digest() == want.hexdigest()


def test_the_digest_changes_with_any_byte_of_a_parameter() -> None:
    parameters = flat()
    before = parameters.digest()
    used = sorted(set(range(parameters.total_bytes)) - set(padding_bytes(parameters)))
    for at in (used[0], used[len(used) // 2], used[-1]):
        parameters.buffer[at] ^= 1
        assert parameters.digest() != before
        parameters.buffer[at] ^= 1


def test_the_digest_does_not_depend_on_the_padding() -> None:
    parameters = flat()
    before, gaps = parameters.digest(), padding_bytes(parameters)
    assert gaps
    parameters.buffer[gaps] = 255
    assert parameters.digest() == before


def test_the_digest_does_not_depend_on_the_order_in_the_buffer() -> None:
    def together(_name: str, _parameter: Tensor) -> str:
        return "all"

    assert FlatParameters(module(), together).digest() == flat().digest()


def test_gradients_are_views_of_one_flat_tensor() -> None:
    ours = module()
    parameters = FlatParameters(ours, section_of)
    parts = parameters.parts(lambda name: False)
    assert [part.section for part in parts] == parameters.sections()
    gradients = {part.section: torch.zeros_like(part.flat) for part in parts}
    for part in parts:
        parameters.attach_gradients(part, gradients[part.section])
    reference = copy.deepcopy(module())
    x = torch.randn(4, 3)
    for each in (ours, reference):
        each(x).square().sum().backward()
    named = dict(reference.named_parameters())
    for name, gradient in gradients.items():
        entries = [e for e in parameters.entries if e.section == name]
        for entry in entries:
            start = (entry.offset - entries[0].offset) // 4
            lying = gradient[start : start + named[entry.name].numel()]
            assert torch.equal(lying, named[entry.name].grad.flatten())


def test_a_read_only_chunk_is_copied_in_at_its_offset() -> None:
    parameters = flat()
    before = parameters.to_bytes().copy()
    chunk = np.full(64, 9, np.uint8)
    chunk.setflags(write=False)
    parameters.copy_from(64, chunk)
    want = before.copy()
    want[64:128] = 9
    assert parameters.to_bytes().tolist() == want.tolist()


def test_what_is_frozen_stays_where_it_is() -> None:
    ours = module()
    frozen = ours[0].weight
    before = frozen.data_ptr()
    rule = lambda name, p: "frozen" if name == "0.weight" else section_of(name, p)  # noqa: E731
    parameters = FlatParameters(ours, rule)
    assert "0.weight" not in [e.name for e in parameters.entries]
    parameters.buffer.zero_()
    assert (frozen.data_ptr(), bool(frozen.any())) == (before, True)


def test_the_digest_leaves_out_what_is_frozen() -> None:
    rule = lambda name, p: "frozen" if name == "0.weight" else section_of(name, p)  # noqa: E731
    one, other = module(), module()
    with torch.no_grad():
        other[0].weight.add_(1)
    assert FlatParameters(one, rule).digest() == FlatParameters(other, rule).digest()
