"""Words, recipes and configurations: what a user types is what the dataclass holds."""

import dataclasses
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sparsteer.cli.arguments import Verb, parse, wants_help
from sparsteer.cli.console import Report, Terminal
from sparsteer.cli.options import CommonOptions
from sparsteer.sae.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Nested."""

    learning_rate: float = 0.5
    """Speed."""
    rounds: int | None = None
    """How often."""

    def __post_init__(self) -> None:
        if self.learning_rate < 0:
            raise InputError(
                f"learning_rate is {self.learning_rate}; it must not be negative",
                field="learning_rate",
            )


@dataclass(frozen=True, kw_only=True)
class Outer:
    """What to do."""

    source: str
    """Where from."""
    site: tuple[str, ...] = ()
    """Places."""
    mode: Literal["fast", "exact"] = "fast"
    """How."""
    dry: bool = False
    """Only look."""
    loud: bool = True
    """Speak."""
    inner: Inner = field(default_factory=Inner)


def run(config: Outer, terminal: Terminal) -> Report:
    """Do it."""
    raise AssertionError


VERB = Verb(config=Outer, run=run, positional=("source",))


def read(*words: str) -> Outer:
    return parse("sparsteer do", VERB, words)[0]


def refused(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        parse("sparsteer do", VERB, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_those_of_the_dataclass() -> None:
    assert parse("sparsteer do", VERB, ["here"]) == (Outer(source="here"), CommonOptions())


def test_nested_fields_lie_flat() -> None:
    assert read("x", "--learning-rate", "2e-4", "--rounds", "7").inner == Inner(
        learning_rate=2e-4, rounds=7
    )


BOMB = "a0: &a0 [1]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    "words", [("--site", "a", "b"), ("--site", "a", "--dry", "--site", "b"), ("--site=a", "b")]
)
def test_several_values_may_be_listed_or_repeated(words: tuple[str, ...]) -> None:
    assert read("x", *words).site == ("a", "b")


def test_underscores_equal_hyphens_and_the_last_value_wins() -> None:
    assert read("x", "--learning_rate=1", "--learning-rate", "2").inner.learning_rate == 2


def test_switches_go_on_and_off() -> None:
    assert (read("x", "--dry").dry, read("x", "--dry", "--no-dry").dry) == (True, False)
    assert (read("x").loud, read("x", "--no-loud").loud) == (True, False)


def test_values_may_begin_with_a_dash() -> None:
    assert read("--", "-x").source == "-x"
    assert read("x", "--site=-y").site == ("-y",)
    assert "--learning-rate is -inf;" in refused("x", "--learning-rate", "-inf")
    assert "--learning-rate is -0.5;" in refused("x", "--learning-rate", "-0.5")


def test_digits_may_be_grouped() -> None:
    assert read("x", "--rounds", "1_000").inner.rounds == 1000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["x", "--learning-rat", "1"],
            "--learning-rat for sparsteer do; perhaps you meant --l",
        ),
        (
            ["x", "--inner.rounds", "1"],
            "--inner.rounds for sparsteer do; perhaps you meant --r",
        ),
        (["x", "--zzzzz"], "unrecognized option --zzzzz for sparsteer do; see sparsteer do --help"),
        (["x", "-m"], "unrecognized option -m"),
        (["x", "--source", "y"], "unrecognized option --source"),
        (
            ["x", "--mode", "exakt"],
            "is 'exakt', but must be one of fast, exact; perhaps you meant",
        ),
        (["x", "--rounds", "\u0663"], "--rounds is '\u0663', but must be a whole number in plain"),
        (["x", "--rounds", " 5"], "--rounds is ' 5', but must be a whole number in plain digits"),
        (["x", "--rounds", str(2**63)], "must lie between -2^63 and 2^63 - 1"),
        (["x", "--rounds", "9" * 6000], "must lie between -2^63 and 2^63 - 1"),
        (["x", "--learning-rate", "\uff15"], "but must be a number in plain digits"),
        (["x", "--mode", "a\udcff"], "which is not UTF-8"),
        (["x", "--rounds", "1.5"], "--rounds is '1.5', but must be a whole number"),
        (["x", "--learning-rate", "fast"], "--learning-rate is 'fast', but must be a number"),
        (["x", "--rounds"], "--rounds has no value; write --rounds N"),
        (["x", "--site", "--dry"], "--site has no value; write --site TEXT [TEXT ...]"),
        (["x", "--rounds", "--dry"], "--rounds has no value"),
        (["x", "--dry=yes"], "--dry takes no value; write --dry or --no-dry"),
        (["x", "y"], "unexpected argument 'y' for sparsteer do"),
        (["--dry"], "SOURCE is missing; write `sparsteer do ... SOURCE`"),
        (["x", "--learning-rate", "-1"], "--learning-rate is -1.0; it must not be negative"),
    ],
)
def test_wrong_words_are_answered_with_the_right_ones(words: list[str], sentence: str) -> None:
    assert sentence in refused(*words)


def test_a_bad_value_is_found_among_good_ones() -> None:
    message = refused("x", "--mode", "exact", "--learning-rate", "1", "--rounds", "two", "--dry")
    assert message.startswith("--rounds is 'two'")


def recipe(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_flags_override_the_recipe(tmp_path: Path) -> None:
    path = recipe(
        tmp_path, "source: here\nlearning_rate: 2e-4\nrounds: 3\nsite: [a, b]\ndry: true\n"
    )
    config = read("--rounds", "5", "--config", path, "--site", "c", "--no-dry")
    assert config == Outer(
        source="here", site=("c",), dry=False, inner=Inner(learning_rate=2e-4, rounds=5)
    )


def test_a_recipe_gives_positional_and_hyphenated_settings(tmp_path: Path) -> None:
    path = recipe(tmp_path, "source: here\nlearning-rate: 3\nsite: one\nrounds: null\n")
    expected = Outer(source="here", site=("one",), inner=Inner(learning_rate=3))
    assert read("--config", path) == expected
    assert read("there", "--config", path) == dataclasses.replace(expected, source="there")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learnin_rate: 3", "there is no setting 'learnin_rate'; perhaps you meant learning_rate"),
        ("learnin-rate: 3", "perhaps you meant learning-rate"),
        ("json: true", "there is no setting 'json'"),
        ("inner: {rounds: 3}", "there is no setting 'inner'"),
        ("rounds: soon", "but must be a whole number"),
        ("rounds: [1, 2]", "rounds is [1, 2], but must be a whole number"),
        ("rounds: true", "rounds is True, but must be a whole number"),
        ("site: [[a]]", "site is ['a'], but must be text"),
        ("dry: 1", "dry is 1, but must be true or false"),
        ("mode: exakt", "perhaps you meant exact"),
        ("rounds: [", "is not valid YAML"),
        ("rounds: 2020-13-45", "is not valid YAML (month must be in 1..12); mend it"),
        ("rounds: !!int abc", "is not valid YAML"),
        ("learning_rate: !!float abc", "is not valid YAML"),
        ("dry: !!bool maybe", "is not valid YAML"),
        ("rounds: " + "9" * 6000, "is not valid YAML"),
        ("rounds: " + "[" * 3000, "is nested too deeply"),
        (BOMB, "with its aliases written out it has more than 100,000 values"),
        ("rounds: &a [*a]", "with its aliases written out it has more than 100,000 values"),
        ("rounds: 3\nrounds: 4", "'rounds' stands in it twice, in line 2"),
        ("learning_rate: 3\nlearning-rate: 4", "'learning-rate' stands in it twice"),
        ("rounds: 99999999999999999999", "must lie between -2^63 and 2^63 - 1"),
        ('site: "a\\0b"', "which holds a NUL character"),
        ('site: "\\ud800"', "which is not UTF-8"),
        ("- rounds", "must hold lines such as `tokens: 200000`"),
    ],
)
def test_wrong_recipes_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = recipe(tmp_path, text)
    message = refused("x", "--config", path)
    assert sentence in message
    assert path in message


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    assert f"there is no recipe at {tmp_path / 'no.yaml'}" in refused(
        "--config", f"{tmp_path}/no.yaml"
    )
    assert "it is a folder, not a regular file" in refused("--config", str(tmp_path))


def test_an_empty_recipe_changes_nothing(tmp_path: Path) -> None:
    assert read("x", "--config", recipe(tmp_path, "# nothing\n")) == Outer(source="x")


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1)
SETTINGS = st.fixed_dictionaries(
    {"source": TEXT},
    optional={
        "site": st.lists(TEXT, min_size=1, max_size=3),
        "mode": st.sampled_from(["fast", "exact"]),
        "dry": st.booleans(),
        "loud": st.booleans(),
        "learning_rate": st.floats(0, 1e300),
        "rounds": st.integers(-(2**63), 2**63 - 1),
    },
)


@given(settings=SETTINGS, source=st.randoms(use_true_random=False))
def test_any_settings_come_through_flags_and_recipe(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any], source: random.Random
) -> None:
    """However they are split between the recipe and flags in any order."""
    inner = {name: settings[name] for name in ("learning_rate", "rounds") if name in settings}
    outer = {name: value for name, value in settings.items() if name not in inner}
    outer["site"] = tuple(outer.get("site", ()))
    expected = Outer(**outer, inner=Inner(**inner))
    names = [name for name in settings if name != "source"]
    source.shuffle(names)
    cut = source.randint(0, len(names))
    words = [word for name in names[cut:] for word in flag(name, settings[name])]
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: settings[name] for name in names[:cut]}))
    assert read(*words, "--config", str(path), "--", settings["source"]) == expected


def flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list):
        return [f"--{name}={item}" for item in value]  # pyright: ignore[reportUnknownVariableType] - texts
    return [f"--{name}={value}"]


def test_help_is_asked_for_before_the_end_of_options() -> None:
    assert wants_help(["x", "-h"])
    assert wants_help(["--help"])
    assert not wants_help(["x", "--", "--help"])
