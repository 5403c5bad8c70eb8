"""A Llama model in GGUF -> a folder in Hugging Face format: weights dequantised to float32, tokenizer, chat template.

transformers reads such files too, but walks the vocabulary several times in Python (40 s for a 135M model where this
takes 5), and splits numbers unlike the tokenizer the model was trained with. Only what our file holds is read here:
architecture llama, byte-level BPE with digits apart, tensor types F32, Q8_0 and Q4_1.
Format: the GGUF specification and the block layouts of ggml (ggml-common.h).
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from logtune.errors import ModelError
from logtune.records import Json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = npt.NDArray[np.float32]
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK = 32  # values of a quantised block
BLOCK_BYTES = {Q4_1: 20, Q8_0: 34}
CONTROL = 3  # token type of special tokens

NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies."""

    name: str
    shape: tuple[int, ...]  # rows first
    kind: int
    start: int  # byte in the file


class GgufFile:
    """Metadata and tensors of one file; `tensor()` dequantises one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self._data[:4] != b"GGUF":
            raise ModelError(f"{path} is no GGUF file", "reinstall the package that carries it")
        self._at = 4
        _version, tensors, keys = self._take("IQQ")
        self.metadata: dict[str, Json] = {}
        for _ in range(keys):
            key = self._text()
            self.metadata[key] = self._value(self._take("I")[0])
        found = [self._tensor_info() for _ in range(tensors)]
        alignment = self.number("general.alignment", 32)
        base = -(-self._at // alignment) * alignment
        self.tensors = {
            name: TensorInfo(name=name, shape=shape, kind=kind, start=base + at) for name, shape, kind, at in found
        }

    def number(self, key: str, default: int = 0) -> int:
        """An integer of the metadata."""
        value = self.metadata.get(key, default)
        return value if isinstance(value, int) else default

    def tensor(self, name: str) -> Floats:
        """The values of a tensor, shape as in PyTorch; ModelError for a type that is not read here."""
        info = self.tensors[name]
        count = prod(info.shape)
        if info.kind == F32:
            return np.frombuffer(self._data, np.float32, count, info.start).reshape(info.shape)
        if info.kind not in BLOCK_BYTES:
            raise ModelError(f"{self.path.name}: tensor {name} has GGUF type {info.kind}", "use a Hugging Face folder")
        size = BLOCK_BYTES[info.kind]
        blocks = np.frombuffer(self._data, np.uint8, count // BLOCK * size, info.start).reshape(-1, size)
        return (q4_1(blocks) if info.kind == Q4_1 else q8_0(blocks)).reshape(info.shape)

    def _take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    def _text(self) -> str:
        length = self._take("Q")[0]
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8")

    def _value(self, kind: int) -> Json:
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            return self._take(SCALARS[kind])[0]
        kind, count = self._take("IQ")
        if kind in SCALARS:
            return list(self._take(f"{count}{SCALARS[kind]}"))
        return [self._value(kind) for _ in range(count)]

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        shape = self._take(f"{self._take('I')[0]}Q")
        kind, start = self._take("IQ")
        return name, tuple(reversed(shape)), kind, start


def q4_1(blocks: npt.NDArray[np.uint8]) -> Floats:
    """Blocks (N, 20) of a scale, a minimum and 32 nibbles -> values (N, 32): scale * nibble + minimum."""
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    values = np.concatenate((blocks[:, 4:] & 15, blocks[:, 4:] >> 4), axis=1).astype(np.float32)
    values *= scale
    values += least
    return values


def q8_0(blocks: npt.NDArray[np.uint8]) -> Floats:
    """Blocks (N, 34) of a scale and 32 signed bytes -> values (N, 32): scale * byte."""
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return cast(Floats, blocks[:, 2:].view(np.int8).astype(np.float32) * scale)


def convert(source: Path, folder: Path) -> int:
    """Write the model of a GGUF file to an existing folder; the number of its parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, LlamaConfig

    file = GgufFile(source)
    config = LlamaConfig.from_dict(_config(file))
    weights = {_name(name): torch.from_numpy(_weight(file, name)) for name in file.tensors}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    ends = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ends).save_pretrained(folder)
    _tokenizer(file).save_pretrained(folder)
    return sum(weight.numel() for weight in weights.values())


def _config(file: GgufFile) -> dict[str, Json]:
    if file.metadata.get("general.architecture") != "llama":
        raise ModelError(f"{file.path.name} is no llama model", "use a Hugging Face folder")
    keys = {
        "num_hidden_layers": "block_count", "max_position_embeddings": "context_length",
        "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon", "vocab_size": "vocab_size",
    }  # fmt: skip
    settings: dict[str, Json] = {name: file.metadata[f"llama.{key}"] for name, key in keys.items()}
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": file.metadata["llama.rope.freq_base"]}
    settings |= {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    settings["tie_word_embeddings"] = "output.weight" not in file.tensors
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        settings[f"{name}_token_id"] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    return settings


def _name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("blk."):
        return f"{OUTER[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def _weight(file: GgufFile, name: str) -> Floats:
    """The tensor; llama.cpp interleaves the halves of each rotary head of q and k, which is undone here."""
    values = file.tensor(name)
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    part = name.split(".")[-2]
    if part in heads:
        count = file.number(heads[part])
        halves = values.reshape(count, values.shape[0] // count // 2, 2, values.shape[1])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    return np.array(values)


def _tokenizer(file: GgufFile) -> "PreTrainedTokenizerBase":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = cast("list[str]", file.metadata["tokenizer.ggml.tokens"])
    kinds = cast("list[int]", file.metadata["tokenizer.ggml.token_type"])
    pairs = [merge.partition(" ") for merge in cast("list[str]", file.metadata["tokenizer.ggml.merges"])]
    merges = [(left, right) for left, _, right in pairs]
    core = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    roles = {"unk_token": "unknown", "bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
    named = {role: tokens[file.number(f"tokenizer.ggml.{key}_token_id")] for role, key in roles.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=file.number("llama.context_length"), **named
    )
    tokenizer.chat_template = file.metadata["tokenizer.chat_template"]
    return tokenizer
