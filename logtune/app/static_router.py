"""Routing without the embedder: token tables and corrections made by a child process, then used on the event loop.

deployed clusters, their queries in the store -> child -> files -> StaticRouter.nearest: text -> Routed in microseconds

    python -m logtune.app.static_router < job.json

The table of an embedder is made once for this machine, the correction once for each set of clusters. Until they are
there, and when they cannot be made, the embedder itself answers. No text is written to disk but invented ones.
"""

import asyncio
import fcntl
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from logtune.config import Config
from logtune.edges.static_vectors import INVENTED, StaticVectors, make, table_folder, tokenizer_file
from logtune.edges.store import Store
from logtune.edges.turned_vectors import TurnedVectors
from logtune.edges.weights import ModelFolder, embedder_model
from logtune.errors import LogtuneError, ModelError
from logtune.ids import digest
from logtune.ports import Embedder
from logtune.records import Cluster, Interaction
from logtune.stages.cluster import Routed
from logtune.stages.static_routes import Fit, StaticRoutes, fit

LOG = logging.getLogger(__name__)
VERSION = 1  # of how a correction is made
MOST_QUERIES = 2000  # of all clusters together that the embedder reads for a correction
NICENESS = 10
BATCH = 256  # texts that the child embeds at once: most are a word
KEPT = 10  # corrections on disk, the newest: going back to earlier clusters is fast
LAST_WORDS = 300  # characters of a failed child's output that are told


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the child is told."""

    embedder: str  # config.embedder.model
    centroids: list[list[list[float]]]  # of each cluster
    radii: list[float]
    queries: list[list[str]]  # of each cluster
    out: str  # the file to write
    invented: int = INVENTED  # queries from which a missing table is learned


Run = Callable[[Job], Awaitable[None]]  # raises ModelError with the reason when nothing could be made


class StaticRouter:
    """Cheap decisions for the clusters that are deployed, once `look` has found or made what they need."""

    def __init__(self, embedder: str, folder: Path, run: "Run | None" = None) -> None:
        self._embedder = embedder
        self._folder = folder  # of the corrections; below the project's home, as they come from its queries
        self._run = run or in_child
        self._clusters: tuple[Cluster, ...] | None = None  # that were looked for
        self._routes: StaticRoutes | None = None
        self._vectors: TurnedVectors | None = None
        self._making: asyncio.Task[None] | None = None

    def nearest(self, clusters: tuple[Cluster, ...], text: str) -> Routed | None:
        """The cluster of a query among these; None: the embedder has to answer."""
        if self._routes is None or self._vectors is None or self._routes.clusters is not clusters:
            return None
        return self._routes.place(self._vectors.direction(text))

    async def look(self, clusters: tuple[Cluster, ...], store: Store) -> None:
        """Find what these clusters need, or begin to make it; does nothing when it was asked for already."""
        if clusters is self._clusters or not clusters:
            return
        self._clusters = clusters
        await self.close()
        try:
            model = await asyncio.to_thread(embedder_model, self._embedder)
            path = self._folder / f"{digest([VERSION, model.fingerprint, [c.id for c in clusters]], 12)}.npz"
            if await asyncio.to_thread(self._ready, clusters, model, path):
                return
        except LogtuneError as error:
            LOG.warning("the embedder routes itself, no copy of it can be made: %s", error)
            return
        self._making = asyncio.create_task(self._make(clusters, model, path, store))

    async def made(self) -> None:
        """Wait until what is being made is there, or has failed."""
        if self._making is not None:
            await asyncio.gather(self._making, return_exceptions=True)

    async def close(self) -> None:
        """End the child."""
        if self._making is not None:
            self._making.cancel()
            await self.made()
            self._making = None

    async def _make(self, clusters: tuple[Cluster, ...], model: ModelFolder, path: Path, store: Store) -> None:
        start = time.monotonic()
        try:
            queries = await asyncio.to_thread(_queries, store, clusters)
            await self._run(Job(
                embedder=self._embedder, radii=[cluster.radius for cluster in clusters],
                centroids=[[list(row) for row in cluster.centroids] for cluster in clusters], queries=queries,
                out=str(path),
            ))  # fmt: skip
            if not await asyncio.to_thread(self._ready, clusters, model, path):
                raise ModelError(f"{path} was not written", "logtune doctor checks the parts")
        except Exception as error:  # noqa: BLE001  the embedder goes on answering; the reason is told
            LOG.warning("the embedder routes itself, no copy of it could be made: %s", error)
            return
        LOG.info("routing by token vectors, ready after %.0f s", time.monotonic() - start)

    def _ready(self, clusters: tuple[Cluster, ...], model: ModelFolder, path: Path) -> bool:
        """Load what is needed; False when something is not there yet."""
        folder = table_folder(model)
        if not (path.exists() and folder.exists()):
            return False
        vectors = _table(folder, tokenizer_file(model))
        if all(len(cluster.centroids[0]) != vectors.dimension for cluster in clusters):
            raise ModelError(
                "no deployed cluster was made with this embedder", "run a cycle, or set embedder.model back"
            )
        found = _read(path, len(clusters))
        self._routes, self._vectors = StaticRoutes(clusters, found), TurnedVectors(vectors, found.turn)
        return True


def wanted(settings: Config) -> StaticRouter | None:
    """What serve.router asks for: beside a model server the embedder would cost more than all the rest."""
    kind = settings.serve.router
    if kind == "full" or (kind == "auto" and settings.model.engine == "embedded"):
        return None
    folder = Path(settings.store.home) / "router"
    return StaticRouter(settings.embedder.model, folder)


@lru_cache(maxsize=4)
def _table(folder: Path, tokenizer: Path) -> StaticVectors:
    """Shared by all projects, which may have one embedder each at most."""
    return StaticVectors(folder, tokenizer)


def _read(path: Path, count: int) -> Fit:
    try:
        with np.load(path) as found:
            radii = tuple(float(radius) for radius in found["radii"])
            turn = found["turn"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be read: {error}", f"rm {path}; it is made again") from error
    if len(radii) != count:
        raise ModelError(f"{path} is of {len(radii)} clusters, not {count}", f"rm {path}; it is made again")
    return Fit(turn=turn, radii=radii)


def _queries(store: Store, clusters: Sequence[Cluster]) -> list[list[str]]:
    """The queries of each cluster that are still in the store, evenly taken where there are many."""
    most = max(1, MOST_QUERIES // max(1, len(clusters)))
    return [_texts(store, _even(cluster.interaction_ids, most)) for cluster in clusters]


def _even(ids: Sequence[str], most: int) -> list[str]:
    return [ids[row * len(ids) // most] for row in range(most)] if len(ids) > most else list(ids)


def _texts(store: Store, ids: Sequence[str]) -> list[str]:
    try:
        found = store.load(Interaction, ids)
    except LogtuneError:  # one of them is gone
        found = [item for item in map(store.get, ids) if isinstance(item, Interaction)]
    return [item.query for item in found if item.query.strip()]


# --- the child ---


async def in_child(job: Job) -> None:
    """Do a job in a process of its own; it ends when this is cancelled."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "logtune.app.static_router", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={"OMP_NUM_THREADS": "1", **os.environ},  # the other cores serve
    )  # fmt: skip
    try:
        _, said = await child.communicate(json.dumps(asdict(job)).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        words = said.decode(errors="replace").strip()[-LAST_WORDS:]
        raise ModelError(f"the process that makes it ended with code {child.returncode}: {words}", "logtune doctor")


def work(job: Job, model: ModelFolder, embedder: Embedder, progress: Callable[[str], None]) -> None:
    """Make the table of the embedder where it is missing, then the correction of the job."""
    folder, tokenizer = table_folder(model), tokenizer_file(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not folder.exists():
            make(embedder, tokenizer, folder, progress, job.invented)
    vectors = StaticVectors(folder, tokenizer)
    clusters = [
        Cluster(id=str(number), interaction_ids=(), centroids=tuple(map(tuple, rows)), radius=radius, label="")
        for number, (rows, radius) in enumerate(zip(job.centroids, job.radii, strict=True))
    ]
    found = fitted(clusters, job.queries, vectors, embedder)
    _write(Path(job.out), found)


def fitted(
    clusters: Sequence[Cluster], queries: Sequence[Sequence[str]], vectors: StaticVectors, embedder: Embedder
) -> Fit:
    """The correction of the clusters, from the queries of each and the invented ones that belong to the table."""
    texts = [text for group in queries for text in group]
    owners = [number for number, group in enumerate(queries) for _ in group]
    foreign, theirs = vectors.invented()
    real = np.concatenate([embedder.embed(texts), theirs]) if texts else theirs
    return fit(clusters, vectors.embed([*texts, *foreign]), real, np.array(owners + [-1] * len(foreign)))


def _write(path: Path, found: Fit) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.savez(file, turn=found.turn, radii=np.array(found.radii))
    Path(file.name).rename(path)
    for old in sorted(path.parent.glob("*.npz"), key=lambda other: other.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of several processes one at a time; a killed one lets the next in."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """The child: a job on stdin, its files on disk; what goes wrong is said on stderr."""
    os.nice(NICENESS)
    job = Job(**json.load(sys.stdin))
    try:
        from logtune.edges.vectors import LocalEmbedder

        model = embedder_model(job.embedder)
        work(job, model, LocalEmbedder(model, batch=BATCH), lambda line: print(line, file=sys.stderr))
    except LogtuneError as error:
        print(f"{error.what}; {error.hint}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
