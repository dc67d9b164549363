"""The precision follows what the processor has, and a user's choice goes first."""

from __future__ import annotations

import pytest
import torch

from matryoshka2d.encoder import precision
from matryoshka2d.encoder.precision import best_precision, bf16_units, resolve_precision
from matryoshka2d.errors import UserError


def with_capabilities(monkeypatch: pytest.MonkeyPatch, **capabilities: object) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def with_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("amx_bf16", "AMX-BF16"),
        ("avx512_bf16", "AVX512-BF16"),
        ("bf16", "ARM BF16"),
        ("sve_bf16", "SVE-BF16"),
    ],
)
def test_cpu_with_units(monkeypatch, flag, name):
    with_capabilities(monkeypatch, avx2=True, **{flag: True})
    best = best_precision("cpu")
    assert (best.name, best.warning) == ("bf16", False)
    assert name in best.reason


def test_cpu_without_units(monkeypatch):
    with_capabilities(monkeypatch, avx2=True, avx512_f=True, amx_tile=True, amx_bf16=False, cpu_name="bf16")
    best = best_precision("cpu")
    assert best.name == "fp32"
    assert "no units for bf16" in best.reason


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16", "AVX512-BF16"),
        ("Features\t: fp asimd bf16", "ARM BF16"),
        ("flags\t\t: fpu avx2", ""),
        ("model name: none", ""),
    ],
)
def test_older_torch_asks_the_kernel(monkeypatch, tmp_path, line, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{line}\n")
    kernel_flags = precision.kernel_flags
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(precision, "kernel_flags", lambda: kernel_flags(cpuinfo))
    assert bf16_units("cpu") == expected


def test_nothing_known_is_fp32(monkeypatch, tmp_path):
    def refuse() -> None:
        raise RuntimeError("no detection in this build")

    kernel_flags = precision.kernel_flags
    monkeypatch.setattr(torch.cpu, "get_capabilities", refuse, raising=False)
    monkeypatch.setattr(precision, "kernel_flags", lambda: kernel_flags(tmp_path / "absent"))
    assert best_precision("cpu").name == "fp32"


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"),
    [((9, 0), True, "bf16"), ((7, 5), True, "fp32"), ((8, 0), False, "fp32")],
)
def test_cuda(monkeypatch, capability, bf16, expected):
    with_gpu(monkeypatch, capability, bf16)
    assert best_precision("auto").name == expected
    assert best_precision("cuda:1").name == expected


def test_mps_is_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert best_precision().name == "fp32"
    assert "Apple" in best_precision().reason


def test_auto_is_the_best_precision():
    assert resolve_precision("auto", "cpu") == best_precision("cpu")


def test_chosen_bf16_without_units_is_honoured_with_a_warning(monkeypatch):
    with_capabilities(monkeypatch, avx2=True)
    chosen = resolve_precision("bf16", "cpu")
    assert (chosen.name, chosen.warning) == ("bf16", True)
    assert "fp32 would be faster" in chosen.reason


def test_chosen_bf16_with_units_has_no_warning(monkeypatch):
    with_capabilities(monkeypatch, amx_bf16=True)
    assert not resolve_precision("bf16", "cpu").warning


def test_fp16_is_for_gpus(monkeypatch):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        resolve_precision("fp16", "cpu")
    with_gpu(monkeypatch, (7, 5))
    assert resolve_precision("fp16", "cuda").name == "fp16"


def test_unknown_choice():
    with pytest.raises(UserError, match=r"Unknown precision 'bf61'.*Did you mean 'bf16'\?"):
        resolve_precision("bf61", "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_unknown_device(device):
    with pytest.raises(UserError, match="Unknown device"):
        best_precision(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_absent_device(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device != "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=f"'{device}' is not there"):
        resolve_precision("auto", device)
