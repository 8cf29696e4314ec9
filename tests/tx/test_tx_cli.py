"""`wormspace tx`, as a person or a script would run it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import Command, in_file
from tests.tx.casting import cast

import wormspace
from wormspace import tx


@pytest.fixture
def worm(tmp_path: Path) -> Command:
    return in_file(tmp_path)


def prepare(url: str, votes: dict[str, bool]) -> tx.TxId:
    """A transaction over a, b and c with these votes."""

    async def work() -> tx.TxId:
        async with wormspace.connect(url) as client:
            site = tx.Site(client, clock=lambda: 1000.0)
            txid = site.new_id()
            for name, yes in votes.items():
                gid = str((await site.open()).gid(name, txid))
                vote = tx.Vote(yes, ("a", "b", "c"), gid, 1000.0, name, "" if yes else "no room")
                await cast(site, name, txid, vote)
            await site.close()
            return txid

    return asyncio.run(work())


def test_list_shows_what_is_undecided_and_what_is_missing(worm: Command) -> None:
    stuck = prepare(worm.url, {"a": True, "b": True})
    done = prepare(worm.url, {"a": True, "b": False})
    lines = [json.loads(line) for line in worm.ok("--json", "tx", "list").splitlines()]
    assert [(x["id"], x["outcome"], x["missing"]) for x in lines] == [
        (str(stuck), "undecided", ["c"])
    ]
    everything = worm.ok("tx", "list", "--all")
    assert str(done) in everything
    assert "aborted" in everything


def test_show_tells_who_voted_what_when_and_why(worm: Command) -> None:
    txid = prepare(worm.url, {"a": True, "b": False})
    text = worm.ok("tx", "show", str(txid))
    assert "aborted" in text
    assert "no room" in text
    assert "1970-01-01 00:16:40Z" in text
    assert "missing" in text
    shown = worm.json("tx", "show", str(txid))
    assert shown["votes"]["b"]["vote"] == "no"
    assert shown["missing"] == ["c"]


def test_a_transaction_nobody_knows_is_an_error(worm: Command) -> None:
    assert worm("tx", "show", "0123-4").exit_code == 5
    assert worm("tx", "show", "nonsense").exit_code == 2


def test_a_manager_that_is_none_is_misuse(worm: Command) -> None:
    assert worm("tx", "resolve", "--manager", "orders").exit_code == 2
    assert worm("tx", "resolve", "--manager", "orders=ftp://x").exit_code == 2


def test_a_resolver_serves_its_metrics_to_prometheus(worm: Command) -> None:
    # Nobody serves at port 1: a store that cannot be asked is not a reason to fail.
    words = ["tx", "resolve", "--patience", "0", "--manager", "a=kv://127.0.0.1:1"]
    result = worm(*words, "--metrics", "0")
    assert result.exit_code == 0
    assert "metrics on http://127.0.0.1:" in result.stderr


def test_a_resolver_names_what_it_leaves_alone(worm: Command, monkeypatch) -> None:
    """A branch of another program's transaction space is neither committed nor rolled back."""
    gid = tx.Gid("0123456789abcdef", "tx", "a", tx.TxId("j", 0))

    class Shared:
        """A database that two programs use."""

        name = "a"

        async def prepared(self) -> list[tx.Gid]:
            return [gid]

        async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
            return "shared"

        async def close(self) -> None:
            pass

    monkeypatch.setattr("wormspace.cli.tx.open_manager", lambda name, url: Shared())
    result = worm("tx", "resolve", "--patience", "0", "--manager", "a=postgresql://there/db")
    assert result.exit_code == 0, result.output
    assert f"{gid}: left alone" in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("words", [("serve", "a", "--data", "a"), ("resolve", "--watch")])
def test_what_goes_on_for_ever_ends_at_sigterm(
    tmp_path: Path, words: tuple[str, ...], in_background: bool
) -> None:
    manager = ("--manager", "b=kv://127.0.0.1:1") if "--watch" in words else ()
    command = [sys.executable, "-m", "wormspace.cli", "--url", "file:state", "tx", *words, *manager]
    if in_background:  # as a shell does it: Ctrl-C is for who is in the foreground
        command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    process = subprocess.Popen(
        [*command, "--metrics", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stderr:
            if "metrics on" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stderr.close()
