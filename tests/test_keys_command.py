"""`logtune keys` and `--project`: from the command line to a store of its own."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from logtune.app import cli
from logtune.app.console import Console
from logtune.edges.keyring import KEY
from logtune.edges.store import Store
from logtune.records import LogRecord


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_key_is_printed_alone_so_that_a_script_can_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "keys", "create", "web shop")
    assert code == 0
    assert KEY.fullmatch(out.strip())
    assert "shown once" in err


def test_keys_are_listed_without_their_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "keys")
    assert "There is no key" in out
    _, text, _ = run(capsys, "keys", "create", "web shop", "--rate", "600")
    made = json.loads(run(capsys, "keys", "create", "b", "--project", "acme", "--json")[1])
    assert KEY.fullmatch(made["key"])
    _, out, _ = run(capsys, "keys", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["id", text.split("-")[1], made["id"]]
    assert "600" in out
    listed = json.loads(run(capsys, "keys", "--json")[1])
    assert [row["project"] for row in listed] == ["default", "acme"]
    assert set(listed[0]) == {"id", "name", "project", "created_at", "revoked_at", "rate_per_minute"}
    assert text.strip().split("-", 2)[2] not in out + json.dumps(listed)


def test_a_revoked_key_says_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(run(capsys, "keys", "create", "a", "--json")[1])
    code, out, _ = run(capsys, "keys", "revoke", made["id"][:6])
    assert code == 0
    assert out.startswith(f"Revoked {made['id']} (a); a running gateway refuses it within 2 s.")
    assert json.loads(run(capsys, "keys", "--json")[1])[0]["revoked_at"] > 0
    code, _, err = run(capsys, "keys", "revoke", "nobody")
    assert code == 1
    assert "logtune keys list" in err


@pytest.mark.parametrize("name", ["Acme", "a/b", "../up", "", "-a", "a" * 33, "a_b", "a b"])
def test_a_project_that_cannot_be_a_folder_gets_no_key(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, _, err = run(capsys, "keys", "create", "a", "--project", name)
    assert code == 1
    assert "no name for a project" in err
    assert json.loads(run(capsys, "keys", "--json")[1]) == []


def test_a_project_has_records_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    Path("logs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    run(capsys, "keys", "create", "a", "--project", "acme")
    code, _, _ = run(capsys, "import", "logs.jsonl", "--project", "acme")
    assert code == 0
    assert json.loads(run(capsys, "status", "--project", "acme", "--json")[1])["logs"] == 1
    assert json.loads(run(capsys, "status", "--json")[1])["logs"] == 0
    assert json.loads(run(capsys, "status", "--project", "default", "--json")[1])["logs"] == 0
    store = Store("sqlite:///.logtune/projects/acme/logtune.db")
    assert store.count(LogRecord) == 1
    store.close()


def test_a_project_that_nobody_began_is_a_slip_of_the_pen(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "keys", "create", "a", "--project", "acme")
    code, _, err = run(capsys, "status", "--project", "amce")
    assert code == 1
    assert "there is no project 'amce'" in err
    assert "acme, default" in err
    assert not Path(".logtune/projects/amce").exists()


def test_a_public_address_without_a_key_is_refused_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve = ("serve", "--host", "0.0.0.0", "--port", "0", "--set", "model.engine=openai")  # and no model.url
    code, _, err = run(capsys, *serve)
    assert code == 1
    assert "logtune keys create" in err
    code, _, err = run(capsys, *serve, "--set", "serve.keys=never")
    assert "warning: serve.keys is 'never'" in err
    run(capsys, "keys", "create", "a")
    code, _, err = run(capsys, *serve)
    assert "there is no key" not in err
    assert "model.url is empty" in err  # it comes as far as the model


def test_settings_of_a_project_change_only_where_its_records_lie() -> None:
    from logtune.app.projects import for_project, project_of

    config = Console(False, None, ("store.url=postgresql+psycopg://u:p@h/db", "store.home=/srv/l")).config()
    acme = for_project(config, "my-acme")
    assert (project_of(config), project_of(acme)) == ("default", "my-acme")
    assert acme.store.home == "/srv/l/projects/my-acme"
    assert acme.store.url == "postgresql+psycopg://u:p@h/db?options=-csearch_path%3Dlogtune_my_acme"
    assert acme.config_hash == config.config_hash
    assert acme.model_copy(update={"store": config.store}) == config
    assert for_project(config, "default") is config


WITHOUT_MODELS = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("torch", "transformers", "gguf", "safetensors", "sklearn"):
                raise ImportError(f"{name} is not installed here")

    sys.meta_path.insert(0, Refuse())
    sys.path.insert(0, TESTS)
    from pathlib import Path
    from gateway_kit import post, serving, upstream
    from logtune.app import build
    from logtune.config import load

    with serving(upstream("big")) as url:
        config = load(None, {"model.engine": "openai", "model.url": f"{url}/v1", "model.served_name": "big"})
        store = build.store(config)
        with serving(build.gateway(store, build.serving(config), config)) as gate:
            body = b'{"messages": [{"role": "user", "content": "hi"}]}'
            print(post(gate, "/v1/chat/completions", body)[0], post(gate, "/readyz", b"", "GET")[0])
        store.close()
    print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_beside_a_model_server_no_model_package_is_needed() -> None:
    script = f"TESTS = {str(Path(__file__).parent)!r}\n" + textwrap.dedent(WITHOUT_MODELS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["200 200", "[]"], done.stderr


def test_a_model_server_s_key_that_is_not_set_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from logtune.app import build
    from logtune.config import build as settings
    from logtune.errors import ConfigError

    model = {"engine": "openai", "url": "http://127.0.0.1:9/v1", "api_key_env": "SERVER_KEY"}
    with pytest.raises(ConfigError, match="SERVER_KEY is empty"):
        build.serving(settings({"model": model}))
    monkeypatch.setenv("SERVER_KEY", "s")
    assert build.serving(settings({"model": model})).backend
