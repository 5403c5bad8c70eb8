"""Number formats: bfloat16 where the processor computes it."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra local")

from logtune.edges import dtypes  # noqa: E402


def test_the_number_format_comes_with_its_reason() -> None:
    dtype, reason = dtypes.pick_dtype("auto")
    assert dtype in (torch.float32, torch.bfloat16)
    assert reason
    assert dtypes.pick_dtype("bfloat16") == (torch.bfloat16, "set in the settings")


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [({"avx2", "amx_bf16"}, torch.bfloat16), ({"avx512_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32)],
)
def test_a_model_that_stays_on_the_processor_goes_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(dtypes, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert dtypes.pick_dtype("auto", on_gpu=False)[0] == dtype
