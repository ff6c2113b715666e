"""The playground's answers: choices, measures, sweeps, and results that repeat themselves."""

import asyncio
import dataclasses
import json
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.pages import sweep as sweep_page
from sparsteer.app.browser.playground_settings import intervention_of
from sparsteer.app.browser.saved_results import SavedResults
from sparsteer.app.browser.session import Session
from sparsteer.sae import InputError
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering import GenerateConfig, Intervention, Sampling, generate
from sparsteer.steering.generation import repetition_of
from sparsteer.steering.reading_back import read_back
from sparsteer.steering.side_by_side import side_by_side
from sparsteer.steering.sweep import strength_sweep
from sparsteer.steering.texts import prompt_tokens

PROMPT = "cats and dogs"
CHOSEN = {"max_tokens": 6, "temperature": 0.8, "top_p": 0.9, "seed": 5}


@pytest.fixture
def firing(session: Session) -> int:
    """A feature that fires."""
    return int(session.index.statistics["fired"].argmax())


@pytest.fixture
def never(session: Session) -> int:
    """A feature that never fired, made so."""
    statistics = session.index.statistics
    quiet = {name: column.copy() for name, column in statistics.items()}
    quiet["max_activation"][7] = 0.0
    session.index.__dict__["statistics"] = quiet
    return 7


def steering_of(*features: int, strength: float = 2.0, **more: Any) -> dict[str, Any]:
    return {"features": [{"index": number, "strength": strength} for number in features], **more}


def sentence(answer: Any) -> str:
    assert answer.status_code >= 400, answer.text
    return str(answer.json()["error"]["message"])


def lines_of(answer: Any) -> list[Any]:
    """The events of a stream."""
    found = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(line) for line in found[:-1]]


def test_the_page_has_its_parts_and_no_inline_code(client: TestClient) -> None:
    page = client.get("/playground")
    assert page.status_code == 200
    scripts = re.findall(r"<script\b[^>]*>([^<]*)", page.text)
    assert scripts and not any(code.strip() for code in scripts)
    assert " style=" not in page.text and not re.search(r"\son\w+=", page.text)
    for id_ in ("prompt", "instruction", "temperature", "seed", "tier", "edit", "direction"):
        assert f'id="{id_}"' in page.text and f'for="{id_}"' in page.text


def test_choices_are_the_registries_and_the_picks(
    client: TestClient, session: Session, firing: int
) -> None:
    session.picks.change(firing, label="a\u202elabel", strength=-0.5)
    values = client.get("/api/playground").json()
    assert {"constant", "per_input", "per_token"} <= {each["name"] for each in values["tiers"]}
    assert {"decoder", "random"} <= {each["name"] for each in values["directions"]}
    for kind in ("tiers", "edits", "directions"):
        assert all(each["meaning"] for each in values[kind])
    (pick,) = values["picks"]
    assert (pick["feature"], pick["strength"]) == (firing, -0.5)
    assert pick["label"] == "a\u27e8U+202E\u27e9label"
    assert pick["max_activation"] == session.index.max_activation(firing)


def test_features_that_cannot_be_steered(client: TestClient, never: int) -> None:
    assert "there is no feature 48" in sentence(client.get("/api/playground/feature/48"))
    assert "never fired" in sentence(client.get(f"/api/playground/feature/{never}"))
    asked = {"steering": steering_of(never)}
    assert "never fired" in sentence(client.post("/api/playground/intervention", json=asked))


def test_the_intervention_is_whole_and_its_fraction_is_measured(
    client: TestClient, session: Session, firing: int
) -> None:
    asked = {"steering": steering_of(firing, 3, tier="per_token"), "prompt": "a 'b' $c"}
    values = client.post("/api/playground/intervention", json=asked).json()
    found = Intervention.from_dict(values["intervention"])
    assert found.tier == "per_token" and found.site == session.index.manifest["site"]
    unit = session.index.max_activation(firing)
    assert found.features[0].max_activation == unit
    about = client.get("/api/playground/model").json()
    assert about["chat"] is False and about["sampled_tokens"] > 20
    push = unit / float(session.loaded.sae.input_scale)
    assert values["fractions"][str(firing)] == pytest.approx(push / about["median_norm"], rel=0.05)
    assert values["together"] > 0
    assert "--prompt 'a '\"'\"'b'\"'\"' $c'" in values["command"]


def test_a_text_is_read_back_as_it_was_written(
    client: TestClient, session: Session, firing: int
) -> None:
    loaded = session.loaded
    tokens = loaded.model.tokenize(" and rain and rain and rain")
    body = {
        "beginning": {"prompt": PROMPT},
        "text": " and rain and rain and rain",
        "tokens": tokens,
        "features": [firing],
    }
    values = client.post("/api/playground/read", json=body).json()
    found = read_back(loaded, prompt_tokens(loaded.model, PROMPT), tokens, [firing])
    assert values["perplexity"] == pytest.approx(found.perplexity)
    unit = session.index.max_activation(firing)
    assert values["activations"][str(firing)] == pytest.approx(found.activations[firing] / unit)
    assert values["repetition"] == repetition_of(tokens) > 0.5
    assert values["likely_incoherent"]
    again = client.post("/api/playground/read", json={**body, "tokens": []}).json()
    assert again == values
    wrong = {**body, "tokens": [10**6]}
    assert "id 1000000" in sentence(client.post("/api/playground/read", json=wrong))
    wrong = {**body, "tokens": [10**30]}
    answer = client.post("/api/playground/read", json=wrong)
    assert answer.status_code == 400 and "id 1000000" in sentence(answer)


def test_what_is_longer_than_the_server_reads_is_refused_before_the_model_runs(
    client: TestClient, session: Session, firing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(session.config, prompt_limit=4, token_limit=20)
    monkeypatch.setattr(session, "config", config)
    _ = session.engine

    def nobody() -> None:
        raise AssertionError("the model is used")

    monkeypatch.setattr(session, "using_model", nobody)
    long, short = {"prompt": "cats and dogs"}, {"prompt": "a"}
    sweep = {"beginning": long, "steering": steering_of(firing), "chosen": {"max_tokens": 2}}
    assert "reads at most 4" in sentence(client.post("/api/sweep", json=sweep))
    for body, most in (
        ({"beginning": long, "text": "x"}, 4),
        ({"beginning": short, "text": "x", "tokens": [40] * 30}, 24),
        ({"beginning": short, "text": "x" * 3000}, 24),
    ):
        answer = client.post("/api/playground/read", json=body)
        assert answer.status_code == 400 and f"at most {most}" in sentence(answer)


def test_a_sweep_sends_what_the_function_gives(
    client: TestClient, session: Session, firing: int
) -> None:
    body = {
        "beginning": {"prompt": PROMPT},
        "steering": steering_of(firing, strength=1.0),
        "chosen": CHOSEN,
        "strengths": [0.0, 2.0, -3.0],
    }
    rows = [event["row"] for event in lines_of(client.post("/api/sweep", json=body))]
    intervention = Intervention.from_dict(
        client.post("/api/playground/intervention", json={"steering": body["steering"]}).json()[
            "intervention"
        ]
    )
    sampling = Sampling(max_new_tokens=6, temperature=0.8, top_p=0.9, seed=5)
    expected = strength_sweep(session.loaded, intervention, [PROMPT], (0.0, 2.0, -3.0), sampling)
    assert [row["texts"] for row in rows] == [list(row.texts) for row in expected]
    assert [row["strength"] for row in rows] == [0.0, 2.0, -3.0]
    for row, other in zip(rows, expected, strict=True):
        assert row["perplexity"] == pytest.approx(other.perplexity, rel=1e-4)


def test_one_sweep_at_a_time_and_it_ends_with_its_reader(
    client: TestClient, session: Session, firing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"beginning": {"prompt": PROMPT}, "steering": steering_of(firing)}
    with sweep_page._ONE_AT_A_TIME:  # pyright: ignore[reportPrivateUsage] - as a running one
        answer = client.post("/api/sweep", json=body)
        assert answer.status_code == 429 and "another sweep" in sentence(answer)
        assert answer.headers["Retry-After"] == "5"
    stopped_by_itself = threading.Event()

    def endless(*args: Any, stopped: Callable[[], bool], **options: Any) -> list[Any]:
        while not stopped():
            time.sleep(0.001)
        return []

    monkeypatch.setattr(sweep_page, "strength_sweep", endless)

    async def read_a_little() -> None:
        spec = intervention_of(session, steering_of(firing))
        events = sweep_page.Sweep(session, spec, [1], [1.0], Sampling())
        events.start(stopped_by_itself.set)
        stream = cast(AsyncGenerator[str], events.lines())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        await stream.aclose()

    asyncio.run(read_a_little())
    assert stopped_by_itself.wait(5)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"steering": {"features": []}}, "features is empty"),
    ({"steering": {}}, "needs a list of features"),
    ({"steering": {"features": [{"index": True}]}}, "index is True"),
    ({"steering": steering_of(3, tier="nowhere")}, "tier"),
    ({"strengths": []}, "strengths"),
    ({"strengths": [1.0] * 50}, "strengths"),
    ({"chosen": {"max_tokens": 100_000}}, "at most 1024"),
    ({"chosen": {"temperature": -1.0}}, "temperature"),
    ({"beginning": {"prompt": "x" * 30_000}}, "prompt"),
    ({"beginning": {"messages": [{"role": "user", "content": "x"}]}}, "no chat template"),
    ({"path": "/etc/passwd"}, "path"),
]


def test_wrong_requests_are_sentences(client: TestClient) -> None:
    for change, says in WRONG:
        body = {"beginning": {"prompt": PROMPT}, "steering": steering_of(3), **change}
        answer = client.post("/api/sweep", json=body)
        assert answer.status_code == 400 and says in sentence(answer), change
    assert sweep_page._ONE_AT_A_TIME.acquire(blocking=False)  # pyright: ignore[reportPrivateUsage] - is free
    sweep_page._ONE_AT_A_TIME.release()  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def result(client: TestClient, session: Session, firing: int) -> Iterator[dict[str, Any]]:
    """What a page would save: texts that the endpoint wrote."""
    steering = steering_of(firing, strength=3.0)
    texts = {
        name: [
            client.post(
                "/v1/completions",
                json={"prompt": PROMPT, **CHOSEN, **({"steering": steering} if steered else {})},
            ).json()["choices"][0]["text"]
        ]
        for name, steered in (("base", False), ("steered", True))
    }
    yield {
        "turns": [PROMPT],
        "instruction": "Be brief.",
        "chosen": CHOSEN,
        "steering": steering,
        "texts": texts,
    }


def test_a_result_has_all_that_repeats_it(
    client: TestClient, session: Session, result: dict[str, Any]
) -> None:
    saved = client.post("/api/playground/results", json=result).json()
    assert saved["address"] == f"/playground?result={saved['id']}"
    assert (session.run / "playground" / f"{saved['id']}.json").is_file()
    found = client.get(f"/api/playground/results/{saved['id']}").json()
    loaded = session.loaded
    assert found["sae"] == sae_fingerprint(loaded.sae)
    assert found["weights_hash"] == loaded.model.weights_hash
    assert found["versions"].keys() == {"sparsteer", "torch", "transformers"}
    assert found["texts"] == {**result["texts"], "prompted": []} and not found["warning"]
    # What is in the file writes the same texts, here without the endpoint.
    chosen = found["chosen"]
    sampling = Sampling(
        max_new_tokens=chosen["max_tokens"],
        **{name: chosen[name] for name in ("temperature", "top_p", "seed")},
    )
    steered = Intervention.from_dict(found["intervention"])
    base = generate(loaded.model, found["turns"], sampling)
    pushed = generate(loaded.model, found["turns"], sampling, intervention=steered, sae=loaded.sae)
    assert [text.text for text in base] == result["texts"]["base"]
    assert [text.text for text in pushed] == result["texts"]["steered"]
    listed = client.get("/api/playground/results").json()["results"]
    assert [each["id"] for each in listed] == [saved["id"]] and listed[0]["title"] == PROMPT


def test_the_intervention_is_a_file_that_generate_reads(
    client: TestClient, run: Path, result: dict[str, Any], tmp_path: Path
) -> None:
    saved = client.post("/api/playground/results", json=result).json()
    answer = client.get(f"/api/playground/results/{saved['id']}/intervention")
    assert f'filename="intervention-{saved["id"]}.json"' in answer.headers["Content-Disposition"]
    found = client.get(f"/api/playground/results/{saved['id']}").json()
    assert Intervention.from_json(answer.text).to_dict() == found["intervention"]
    assert f"--intervention intervention-{saved['id']}.json" in found["command"]
    file = tmp_path / "intervention.json"
    file.write_text(answer.text)
    sampling = Sampling(max_new_tokens=6, temperature=0.8, top_p=0.9, seed=5)
    config = GenerateConfig(
        run=str(run), prompt=(PROMPT,), intervention=str(file), sampling=sampling, device="cpu"
    )
    (written,) = side_by_side(config)["results"]
    assert written["base"]["text"] == result["texts"]["base"][0]
    assert written["steered"]["text"] == result["texts"]["steered"][0]


def test_a_result_with_nan_is_refused(client: TestClient, result: dict[str, Any]) -> None:
    body = json.dumps({**result, "measures": {"base": {"perplexity": float("nan")}}})
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/playground/results", content=body, headers=headers)
    assert answer.status_code == 400 and "has NaN" in sentence(answer)


def test_an_id_is_never_a_path(client: TestClient, run: Path) -> None:
    (run / "playground").mkdir()
    (run / "playground" / "x.json").write_text("{}")
    for id_ in ("0" * 16, "..%2F..%2Fpicks", "x", "0" * 15 + "g", "A" * 16, "%2e%2e", "0" * 17):
        answer = client.get(f"/api/playground/results/{id_}")
        assert answer.status_code == 404
        assert "no saved result" in sentence(answer) or "no page" in sentence(answer)


def test_damaged_and_other_results_are_said(
    client: TestClient, run: Path, result: dict[str, Any]
) -> None:
    saved = client.post("/api/playground/results", json=result).json()
    path = run / "playground" / f"{saved['id']}.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(path.read_text("utf-8").replace("Be brief.", "Be long."), "utf-8")
    assert "has changed" in sentence(client.get(f"/api/playground/results/{saved['id']}"))
    (listed,) = client.get("/api/playground/results").json()["results"]
    assert "has changed" in listed["problem"]
    for name in ("sha256", "id", "format", "version", "created", "versions"):
        del values[name]
    other = SavedResults(run).save({**values, "sae": "another"})
    found = client.get(f"/api/playground/results/{other}").json()
    assert "another autoencoder" in found["warning"]
    changed = SavedResults(run).save({**values, "weights_hash": "another"})
    found = client.get(f"/api/playground/results/{changed}").json()
    assert "other weights" in found["warning"]


def test_results_are_not_saved_by_halves(
    client: TestClient, run: Path, result: dict[str, Any]
) -> None:
    changes: list[dict[str, Any]] = [
        {"turns": []},
        {"steering": {"features": [{"index": 48}]}},
        {"id": "mine"},
    ]
    for change in changes:
        answer = client.post("/api/playground/results", json={**result, **change})
        assert answer.status_code == 400
    assert not (run / "playground").exists()
    with pytest.raises(ValueError, match="JSON"):
        SavedResults(run).save({"perplexity": float("nan")})
    assert list((run / "playground").iterdir()) == []
    with pytest.raises(InputError, match="no saved result"):
        SavedResults(run).read("../picks")
