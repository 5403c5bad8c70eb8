"""Settings become parts: which engine, teacher and coverage a config asks for; and what it lacks is told."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from logtune.app import build
from logtune.config import build as settings
from logtune.edges.replies import RememberedChat
from logtune.edges.store import Store
from logtune.errors import ConfigError
from logtune.records import Json
from logtune.testing import tiny_model

pytest.importorskip("torch", reason="the models need the extra 'local'")


def tree(tmp_path: Path, **sections: dict[str, Json]) -> dict[str, Json]:
    store: dict[str, Json] = {"url": f"sqlite:///{tmp_path / 's.db'}", "home": str(tmp_path / "home")}
    model: dict[str, Json] = {"base": str(tiny_model(tmp_path / "base"))}
    return {"store": store, **sections, "model": model | sections.get("model", {})}


@pytest.mark.slow
def test_the_embedded_engine_serves_learns_and_measures(tmp_path: Path) -> None:
    tools = build.tools(settings(tree(tmp_path)))
    assert tools.base_parameters > 10_000
    assert tools.lora_sizes["all-linear"] > tools.lora_sizes["attention"] > 0
    assert tools.teacher is None
    assert tools.likelihood is tools.student
    assert Path(tools.adapters_dir).is_dir()
    assert asyncio.run(tools.adapters.names()) == []


@pytest.mark.slow
def test_a_server_elsewhere_gives_no_likelihoods(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/v1"
    tools = build.tools(settings(tree(tmp_path, model={"engine": "openai", "url": url}, teacher={"url": url})))
    assert tools.likelihood is None
    assert tools.teacher is not None
    assert tools.lora_sizes["all-linear"] > 0


@pytest.mark.slow
def test_a_server_without_a_url_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.url is empty"):
        build.tools(settings(tree(tmp_path, model={"engine": "openai"})))


@pytest.mark.slow
def test_a_reranker_without_a_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gap\.reranker is empty"):
        build.tools(settings(tree(tmp_path, gap={"method": "reranker"})))


def test_what_calls_have_besides_is_a_setting_and_part_of_the_memory(tmp_path: Path) -> None:
    url, thinks_not = "http://127.0.0.1:9/v1", {"chat_template_kwargs": {"enable_thinking": False}}
    of_model = {"engine": "openai", "url": url, "template": {"enable_thinking": False}, "extra_body": {"top_k": 1}}
    made = settings({"model": of_model, "teacher": {"url": url, "extra_body": thinks_not}})
    assert build._extra_body(made) == {**thinks_not, "top_k": 1}
    store = Store(f"sqlite:///{tmp_path / 's.db'}")
    plain = settings({"teacher": {"url": url}})
    names = [cast("RememberedChat", build.teacher(each, store))._name for each in (plain, made)]
    assert names[0] == f"{url} teacher"  # what was remembered before holds
    assert names[1] != names[0]
    store.close()


def test_versions_name_what_a_result_depends_on() -> None:
    found = build.versions()
    assert found["logtune"]
    assert found["torch"]
