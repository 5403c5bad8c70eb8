"""Routing by token vectors: made beside the serving process, in agreement with the embedder, and never in the way."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gateway_kit import WatchedStore, deployed
from test_static_vectors import OTHERS, THINGS, MeaningEmbedder, word_tokenizer

from logtune.app import routing, static_router
from logtune.app.adapters import Adapters
from logtune.app.routing import Router
from logtune.app.static_router import Job, StaticRouter, fitted, work
from logtune.config import build
from logtune.edges import static_vectors
from logtune.edges.store import UnitResult
from logtune.edges.weights import embedder_model
from logtune.errors import ModelError
from logtune.ids import identified
from logtune.ports import Vectors
from logtune.records import Cluster, Interaction, LogRecord
from logtune.stages.cluster import Routes
from logtune.stages.static_routes import Fit, StaticRoutes, fit
from logtune.testing import MemoryAdapterServer

pytest.importorskip("tokenizers", reason="needs the extra local")

ASKED = {  # what the users of two deployments ask about
    "parcel": [f"please can you find the parcel {word}" for word in OTHERS],
    "recipe": [f"how about the recipe with {word}" for word in OTHERS],
}


class Machine:
    """A place for models and homes: an embedder on disk, its table made from few queries, and work done in process."""

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        self.folder = folder
        self.model = folder / "embedder"
        self.model.mkdir()
        save_file({"weights": np.zeros(2, np.float32)}, self.model / "model.safetensors")
        (self.model / "config.json").write_text("{}")
        word_tokenizer(self.model / "tokenizer.json")
        self.embedder = MeaningEmbedder()
        self.jobs: list[Job] = []
        self.going = asyncio.Event()
        self.going.set()

    def router(self) -> StaticRouter:
        return StaticRouter(str(self.model), self.folder / "home" / "router", self.run)

    async def run(self, job: Job) -> None:
        self.jobs.append(job)
        await self.going.wait()
        job = replace(job, invented=600)
        await asyncio.to_thread(work, job, embedder_model(job.embedder), self.embedder, lambda _: None)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(static_vectors, "STEPS", 100)
    return Machine(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(f"sqlite:///{tmp_path / 'logtune.db'}")


def asked(store: WatchedStore, texts: Sequence[str]) -> tuple[str, ...]:
    """Interactions in the store."""
    ids = [f"log-{text.replace(' ', '-')}" for text in texts]
    store.add_logs([LogRecord(id=name, request={}, response=None, at=1.0, model="m") for name in ids])
    items = [
        identified(Interaction(
            id="", log_id=name, context=(), query=text, answer="", follow_ups=(), feedback_ids=(), user=None,
            session=None, adapter=None, at=1.0,
        ))
        for name, text in zip(ids, texts, strict=True)
    ]  # fmt: skip
    store.commit_units([
        UnitResult(stage="join", key=ids[0], outputs=tuple(items), cycle_id="c", config_hash="h", at=1.0)
    ])  # fmt: skip
    return tuple(item.id for item in items)


def around(embedder: MeaningEmbedder, name: str, ids: tuple[str, ...]) -> Cluster:
    """A cluster as the grouping makes it, of one topic."""
    vectors = embedder.embed(ASKED[name])
    centroid = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    return identified(Cluster(
        id="", interaction_ids=ids, centroids=(tuple(map(float, centroid)),),
        radius=float((vectors @ centroid).min()) - 0.05, label=name, name=name,
    ))  # fmt: skip


def clusters(machine: Machine, store: WatchedStore) -> tuple[Cluster, ...]:
    return tuple(around(machine.embedder, name, asked(store, texts)) for name, texts in ASKED.items())


async def test_decisions_are_the_embedders(machine: Machine, store: WatchedStore) -> None:
    found, static = clusters(machine, store), machine.router()
    assert static.nearest(found, "where is my parcel") is None
    await static.look(found, store)
    await static.made()
    texts = [
        *ASKED["parcel"],
        *ASKED["recipe"],
        *(f"what about {one} and {two}" for one in OTHERS for two in THINGS[1:4]),
    ]
    full = Routes(found)
    agreed = 0
    for text in texts:
        (vector,) = machine.embedder.embed([text])
        place = static.nearest(found, text)
        assert place is not None
        agreed += place.cluster is full.nearest(vector).cluster
    assert agreed / len(texts) > 0.9
    alien = static.nearest(found, "\u4f60\u597d")
    assert alien is not None
    assert (alien.cluster, alien.similarity) == (None, 0.0)


async def test_what_was_made_once_is_found_again(machine: Machine, store: WatchedStore) -> None:
    found, static = clusters(machine, store), machine.router()
    await static.look(found, store)
    await static.made()
    later = machine.router()
    same = tuple(store_copy for store_copy in found)
    await later.look(same, store)
    assert later.nearest(same, "find the parcel") is not None
    assert later.nearest(found[:1], "find the parcel") is None
    (job,) = machine.jobs
    assert job.queries == [ASKED["parcel"], ASKED["recipe"]]
    await later.look(found[:1], store)  # other clusters: the table is there, the correction is not
    await later.made()
    assert len(machine.jobs) == 2
    files = list((machine.folder / "home" / "router").iterdir())
    assert len(files) == 2
    assert not any(b"parcel" in file.read_bytes() for file in files)


async def test_until_it_is_made_and_when_it_cannot_be_the_embedder_answers(
    machine: Machine, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    for cluster in clusters(machine, store):
        deployed(store, cluster, None, at=1.0)
    machine.going.clear()
    routing = Router(store, machine.embedder, Adapters(MemoryAdapterServer(), machine.folder), machine.router())
    await routing.refresh()
    before = machine.embedder.asked
    assert (await routing.choose(ASKED["parcel"][0], "user:a")).cluster == "parcel"
    assert machine.embedder.asked == before + 1
    machine.going.set()
    assert routing._static is not None
    await routing._static.made()
    before = machine.embedder.asked
    choice = await routing.choose(ASKED["recipe"][0], "user:a")
    assert (choice.cluster, choice.reason) == ("recipe", "the base model is deployed for recipe")
    assert (await routing.choose("what about \u4f60\u597d", "user:a")).cluster is None
    await routing.warm()
    assert machine.embedder.asked == before
    await routing.close()

    (machine.model / "tokenizer.json").unlink()
    alone = Router(store, machine.embedder, Adapters(MemoryAdapterServer(), machine.folder), machine.router())
    await alone.refresh()
    assert "no tokenizer.json" in caplog.text
    assert (await alone.choose(ASKED["parcel"][0], "user:a")).cluster == "parcel"
    await alone.close()


async def test_a_child_that_fails_is_told_of_and_not_tried_again_and_again(
    machine: Machine, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Job] = []

    async def failing(job: Job) -> None:
        tried.append(job)
        raise ModelError("no memory left")

    found, static = clusters(machine, store), StaticRouter(str(machine.model), machine.folder / "home", failing)
    for _ in range(3):
        await static.look(found, store)
        await static.made()
    assert len(tried) == 1
    assert "no memory left" in caplog.text
    assert static.nearest(found, "parcel") is None


async def test_queries_that_are_gone_from_the_store_cost_only_accuracy(machine: Machine, store: WatchedStore) -> None:
    ids = asked(store, ASKED["parcel"])
    gone = around(machine.embedder, "recipe", ("gone",))
    partly = around(machine.embedder, "parcel", (*ids, "gone"))
    static, found = machine.router(), (partly, gone)
    await static.look(found, store)
    await static.made()
    assert machine.jobs[0].queries == [ASKED["parcel"], []]
    place = static.nearest(found, ASKED["recipe"][0])
    assert place is not None
    assert place.cluster is gone


async def test_clusters_of_another_embedder_are_left_to_it(
    machine: Machine, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    old = identified(Cluster(id="", interaction_ids=(), centroids=((1.0, 0.0),), radius=0.5, label="old", name="old"))
    static, found = machine.router(), (old,)
    await static.look(found, store)
    await static.made()
    assert "was made with this embedder" in caplog.text
    assert static.nearest(found, "parcel") is None


async def test_a_damaged_correction_says_which_file(
    machine: Machine, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    found, static = clusters(machine, store), machine.router()
    await static.look(found, store)
    await static.made()
    (file,) = (machine.folder / "home" / "router").iterdir()
    file.write_bytes(b"nothing")
    await machine.router().look(found, store)
    assert f"{file} cannot be read" in caplog.text


async def test_at_most_so_many_queries_are_read_and_so_many_files_kept(
    machine: Machine, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_router, "MOST_QUERIES", 10)
    monkeypatch.setattr(static_router, "KEPT", 1)
    found, static = clusters(machine, store), machine.router()
    for some in (found, found[:1]):
        await static.look(some, store)
        await static.made()
    assert [len(texts) for texts in machine.jobs[0].queries] == [5, 5]
    assert [len(texts) for texts in machine.jobs[1].queries] == [10]
    assert len(list((machine.folder / "home" / "router").iterdir())) == 1


async def test_ending_ends_the_making(machine: Machine, store: WatchedStore) -> None:
    machine.going.clear()
    found, static = clusters(machine, store), machine.router()
    await static.look(found, store)
    await static.close()
    machine.going.set()
    await static.made()
    assert static.nearest(found, "parcel") is None


async def test_too_many_queries_for_the_embedder_go_to_the_base_model(
    store: WatchedStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MOST_WAITING", 2)
    for cluster in clusters(machine, store):
        deployed(store, cluster, None, at=1.0)
    alone = Router(store, machine.embedder, Adapters(MemoryAdapterServer(), machine.folder))
    await alone.refresh()
    choices = await asyncio.gather(*(alone.choose(text, "user:a") for text in ASKED["parcel"][:5]))
    reasons = [choice.reason for choice in choices]
    assert reasons[:2] == ["the base model is deployed for parcel"] * 2
    assert reasons[2:] == ["routing failed: 2 queries wait for the embedder"] * 3
    await alone.close()


async def test_a_huge_query_is_cut_before_anything_looks_at_it(store: WatchedStore, machine: Machine) -> None:
    for cluster in clusters(machine, store):
        deployed(store, cluster, None, at=1.0)
    lengths: list[int] = []

    class Measuring(MeaningEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            lengths.extend(map(len, texts))
            return super().embed(texts)

    alone = Router(store, Measuring(), Adapters(MemoryAdapterServer(), machine.folder))
    await alone.refresh()
    await alone.choose(" " * 50_000 + "find the parcel " * 100_000, "user:a")
    assert lengths == [routing.LONGEST]
    assert (await alone.choose(" " * 50_000, "user:a")).reason == "no user text to route by"
    await alone.close()


def test_the_setting_says_who_routes(tmp_path: Path) -> None:
    def made(router: str, engine: str) -> bool:
        settings = {"serve": {"router": router}, "model": {"engine": engine}, "store": {"home": str(tmp_path)}}
        return static_router.wanted(build(settings)) is not None

    assert [made(kind, "openai") for kind in ("auto", "static", "full")] == [True, True, False]
    assert [made(kind, "embedded") for kind in ("auto", "static", "full")] == [False, True, False]


def test_radii_follow_the_embedders_decisions_about_foreign_queries() -> None:
    generator = np.random.default_rng(0)

    def unit(rows: np.ndarray) -> Vectors:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    centre = unit(generator.normal(size=(1, 16)))[0]
    own = unit(centre + 0.15 * generator.normal(size=(300, 16)))
    foreign = unit(generator.normal(size=(2000, 16)))
    real = np.concatenate([own, foreign])
    cheap = unit(real + 0.1 * generator.normal(size=real.shape))
    radius = float(np.quantile(own @ centre, 0.01))
    cluster = Cluster(id="a", interaction_ids=(), centroids=(tuple(map(float, centre)),), radius=radius, label="")
    owners = np.array([0] * len(own) + [-1] * len(foreign))
    found = fit([cluster], cheap, real, owners)
    routes = StaticRoutes([cluster], found)
    inside = np.array([routes.nearest(row).cluster is not None for row in cheap])
    assert inside[:300].mean() > 0.93
    assert inside[300:].mean() < (foreign @ centre >= radius).mean() + 0.01
    assert StaticRoutes([], Fit(turn=np.eye(16, dtype=np.float32), radii=())).nearest(cheap[0]).cluster is None


def test_a_fit_without_any_query_keeps_the_radius(machine: Machine) -> None:
    folder = machine.folder / "table"
    static_vectors.make(machine.embedder, machine.model / "tokenizer.json", folder, lambda _: None, 600)
    vectors = static_vectors.StaticVectors(folder, machine.model / "tokenizer.json")
    cluster = Cluster(id="a", interaction_ids=(), centroids=((1.0,) + (0.0,) * 23,), radius=0.4, label="")
    assert fitted([cluster], [[]], vectors, machine.embedder).radii == (0.4,)


def test_the_serving_process_needs_no_model_for_it(machine: Machine) -> None:
    folder = machine.folder / "table"
    static_vectors.make(machine.embedder, machine.model / "tokenizer.json", folder, lambda _: None, 600)
    code = (
        "import sys; from pathlib import Path; from logtune.app import gateway\n"
        "from logtune.edges.static_vectors import StaticVectors\n"
        f"StaticVectors(Path({str(folder)!r}), Path({str(machine.model / 'tokenizer.json')!r})).vector('parcel')\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_child_says_why_it_failed() -> None:
    job = Job(embedder="no-such-model", centroids=[], radii=[], queries=[], out="nowhere")
    with pytest.raises(ModelError, match=r"code 1: .*there is no model 'no-such-model'"):
        asyncio.run(static_router.in_child(job))


@pytest.mark.slow  # loads torch in a child and runs a real model, if a tiny one, over its vocabulary
async def test_a_real_child_makes_all_that_is_needed(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the extra local")
    from test_vectors import tiny_bert

    from logtune.edges.vectors import LocalEmbedder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    embedder = LocalEmbedder(tiny_bert(tmp_path / "bert"))
    texts = ["where is my card", "is my card there", "card card"]
    (centroid,) = embedder.embed(["where is my card"])
    cluster = identified(Cluster(
        id="", interaction_ids=asked(store, texts), centroids=(tuple(map(float, centroid)),), radius=0.1, label="a",
    ))  # fmt: skip

    async def small(job: Job) -> None:
        await static_router.in_child(replace(job, invented=300))

    static, found = StaticRouter(str(tmp_path / "bert"), tmp_path / "router", small), (cluster,)
    await static.look(found, store)
    await static.made()
    place = static.nearest(found, "where is my card")
    assert place is not None
    assert place.cluster is cluster
