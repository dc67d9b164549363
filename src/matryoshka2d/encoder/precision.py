"""Which precision pays on the processor at hand: bf16 where it has units for it, else fp32.

A processor without such units emulates bf16, which is slower than fp32 and no better in any other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from matryoshka2d.errors import UserError, did_you_mean

PrecisionName = Literal["fp32", "bf16", "fp16"]

CHOICES = ("auto", "bf16", "fp32", "fp16")
"""What a user may choose."""

# What torch, or the kernel's list of flags, calls the units; and what their makers call them.
_BF16_UNITS = {
    "amx_bf16": "AMX-BF16",
    "avx512_bf16": "AVX512-BF16",
    "sve_bf16": "SVE-BF16",
    "svebf16": "SVE-BF16",
    "bf16": "ARM BF16",
}


@dataclass(frozen=True)
class Precision:
    """A precision and why.

    Parameters
    ----------
    name : {"fp32", "bf16", "fp16"}
        The precision of the arithmetic; weights stay in fp32 (mixed precision).
    reason : str
        One line to tell the user.
    warning : bool, default False
        Whether the reason speaks against the precision: the user chose bf16 and the processor has no units
        for it.
    """

    name: PrecisionName
    reason: str
    warning: bool = False


def best_precision(device: str = "auto") -> Precision:
    """Return the fastest safe precision of a device.

    Parameters
    ----------
    device : str, default "auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``. Default: the GPU where there is one. Name the
        device when the model runs somewhere else.

    Returns
    -------
    Precision
        bf16 with units for it, else fp32; fp16 never, for it needs loss scaling and overflows.

    Raises
    ------
    UserError
        When the device is unknown or not there.

    Examples
    --------
    >>> best_precision("cpu").name in ("bf16", "fp32")
    True
    """
    device = _resolve_device(device)
    units = bf16_units(device)
    if units:
        return Precision("bf16", f"bf16: {_in_words(device)} has units for it ({units}).")
    return Precision("fp32", f"fp32: {_in_words(device)} has no units for bf16, which would be slower there.")


def resolve_precision(choice: str, device: str = "auto") -> Precision:
    """Return the precision that a user chose, or the best one for ``"auto"``.

    Parameters
    ----------
    choice : {"auto", "bf16", "fp32", "fp16"}
        ``"auto"`` suits nearly everyone; choose ``"fp32"`` for results that are equal between machines.
        bf16 on a processor without units is honoured, with ``warning`` set.
    device : str, default "auto"
        As for :func:`best_precision`.

    Returns
    -------
    Precision

    Raises
    ------
    UserError
        When the choice or the device is unknown, or for fp16 on a CPU.

    Examples
    --------
    >>> resolve_precision("fp32", "cpu")
    Precision(name='fp32', reason='fp32: as chosen.', warning=False)
    """
    check_precision(choice)
    if choice == "auto":
        return best_precision(device)
    device = _resolve_device(device)
    if choice == "fp16" and device == "cpu":
        raise UserError("fp16 needs a GPU and the device is the CPU; choose auto, bf16 or fp32.")
    if choice == "bf16" and not bf16_units(device):
        reason = f"bf16: as chosen, but {_in_words(device)} has no units for it; fp32 would be faster."
        return Precision("bf16", reason, warning=True)
    return Precision(cast(PrecisionName, choice), f"{choice}: as chosen.")


def check_precision(choice: str, choices: Sequence[str] = CHOICES) -> None:
    """Refuse a precision that is not among the choices.

    >>> check_precision("bf16")
    """
    if choice not in choices:
        raise UserError(
            f"Unknown precision '{choice}'; expected one of {', '.join(choices)}."
            f"{did_you_mean(choice, choices)}"
        )


def bf16_units(device: str) -> str:
    """Name the units for bf16 of a device, or return an empty string.

    >>> isinstance(bf16_units("cpu"), str)
    True
    """
    import torch

    if device.startswith("cuda"):
        # Older GPUs emulate bf16 and torch counts that as support; the architecture says what is there.
        native = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
        return "tensor cores" if native and torch.cuda.is_bf16_supported() else ""
    if device != "cpu":
        return ""
    flags = processor_flags()
    return next((name for flag, name in _BF16_UNITS.items() if flag in flags), "")


def processor_flags() -> frozenset[str]:
    """Return what the CPU can do: as torch says, or as the kernel says where torch has no word for it."""
    capabilities = _torch_capabilities()
    if capabilities:
        return frozenset(name for name, value in capabilities.items() if value is True)
    return kernel_flags()


def _torch_capabilities() -> Mapping[str, Any]:
    """``torch.cpu.get_capabilities()``, which newer versions of torch have."""
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        return {}
    try:
        return cast(Mapping[str, Any], ask())
    except (RuntimeError, AttributeError):  # a build without the detection
        return {}


def kernel_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return what the CPU can do, as Linux says; nothing on other systems."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux: nothing is known, and fp32 is never wrong
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features")))
    return frozenset(next(flags, "").split())


def only_cpu() -> bool:
    """Return whether there is nothing here but processors, so that models run there by default."""
    import torch

    others = any(find_spec(name) is not None for name in ("torch_npu", "habana_frameworks"))
    available = (torch.cuda, torch.backends.mps, getattr(torch, "xpu", torch.cuda))
    return not others and not any(kind.is_available() for kind in available)


def _resolve_device(device: str) -> str:
    """The device that ``"auto"`` stands for, or the given one where it is there."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in available.items() if there)
    kind, _, index = device.partition(":")
    if kind not in available or (index and not index.isdecimal()):
        raise UserError(f"Unknown device '{device}'; expected auto, cpu, mps, cuda or cuda:0.")
    if not available[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        there = ", ".join(name for name, present in available.items() if present)
        raise UserError(
            f"The device '{device}' is not there; this machine has: {there}. Choose one, or auto."
        )
    return kind if kind != "cuda" else device


def _in_words(device: str) -> str:
    kinds = {"cpu": "this processor", "cuda": "this GPU", "mps": "the Apple GPU"}
    return kinds[device.partition(":")[0]]
