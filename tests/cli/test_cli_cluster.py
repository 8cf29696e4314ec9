"""Cluster files and data directories, without processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from wormspace.cli.app import cli
from wormspace.cli.layout import DATA
from wormspace.cli.settings import CLUSTER_FILE
from wormspace.errors import WrongIdentity
from wormspace.server.config import load
from wormspace.server.runner import open_engine


def init(directory: Path, *words: str) -> str:
    result = CliRunner().invoke(cli, ["cluster", "init", "--dir", str(directory), *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_init_prepares_what_servers_need(tmp_path: Path) -> None:
    init(tmp_path, "--servers", "5", "--partitions", "2", "--base-port", "9100")
    config = load(tmp_path / CLUSTER_FILE)
    assert [len(p) for p in config.partitions] == [5, 5]
    assert [s.port for s in config.server] == list(range(9100, 9110))
    for server in config.server:
        asyncio.run(open_engine(config, server, tmp_path)).close()


def test_init_in_json_says_how_to_connect(tmp_path: Path) -> None:
    made = json.loads(init(tmp_path, "--json"))
    config = load(Path(made["file"]))
    assert made["url"] == config.url
    assert made["cluster"] == config.cluster


def test_init_refuses_to_overwrite(tmp_path: Path) -> None:
    init(tmp_path)
    before = (tmp_path / CLUSTER_FILE).read_text()
    again = CliRunner().invoke(cli, ["cluster", "init", "--dir", str(tmp_path)])
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert (tmp_path / CLUSTER_FILE).read_text() == before


def test_init_refuses_data_of_another_cluster(tmp_path: Path) -> None:
    init(tmp_path)
    (tmp_path / CLUSTER_FILE).unlink()
    again = CliRunner().invoke(cli, ["cluster", "init", "--dir", str(tmp_path)])
    assert again.exit_code == 6
    assert not (tmp_path / CLUSTER_FILE).exists()


def test_two_clusters_have_two_ids(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b")
    a, b = (load(tmp_path / name / CLUSTER_FILE) for name in "ab")
    assert a.cluster != b.cluster


def test_a_server_refuses_an_empty_directory(tmp_path: Path) -> None:
    init(tmp_path)
    config = load(tmp_path / CLUSTER_FILE)
    lost = tmp_path / DATA / "s1"
    for file in lost.iterdir():
        file.unlink()
    with pytest.raises(WrongIdentity, match="is empty"):
        asyncio.run(open_engine(config, config.find("s1"), tmp_path))
    result = CliRunner().invoke(cli, ["server", "s1", "--cluster", str(tmp_path / CLUSTER_FILE)])
    assert result.exit_code == 6


def test_a_server_that_the_file_does_not_name(tmp_path: Path) -> None:
    init(tmp_path)
    result = CliRunner().invoke(cli, ["server", "s9", "--cluster", str(tmp_path / CLUSTER_FILE)])
    assert result.exit_code == 2
    assert "s1, s2, s3" in result.stderr


def test_up_refuses_a_shape_for_a_cluster_that_exists(tmp_path: Path) -> None:
    init(tmp_path)
    result = CliRunner().invoke(cli, ["up", "--dir", str(tmp_path), "--servers", "5"])
    assert result.exit_code == 2
    assert "--servers is for a new cluster" in result.stderr


def test_a_cluster_file_here_is_the_default_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    init(Path(), "--base-port", "9")
    result = CliRunner().invoke(cli, ["--timeout", "0.3", "spaces"])
    assert result.exit_code == 4
    assert "127.0.0.1:9 " in result.stderr


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("max_valu = 1", "unknown field `max_valu`"),
        ("max_value = 16000000", "max_frame"),
        ("max_frame = 1000000000", "max_frame"),
        ("max_backlog = -1", "at `$.limits.max_backlog`"),
        ("max_connections = 0", "at `$.limits.max_connections`"),
        ("stall_timeout_s = nan", "at `$.limits.stall_timeout_s`"),
        ("greeting_timeout_s = inf", "at `$.limits.greeting_timeout_s`"),
    ],
)
def test_limits_that_cannot_work_are_refused(tmp_path: Path, limit: str, complaint: str) -> None:
    init(tmp_path)
    file = tmp_path / CLUSTER_FILE
    file.write_text(file.read_text() + f"\n[limits]\n{limit}\n")
    result = CliRunner().invoke(cli, ["server", "s1", "--cluster", str(file)])
    assert result.exit_code == 2
    assert complaint in result.stderr
