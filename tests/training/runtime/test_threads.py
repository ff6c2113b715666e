"""The number of threads that a user asks for."""

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.training.runtime.threads import free_cores


@pytest.mark.parametrize("asked", ["abc", "-1", "0", "1.5", " 2", "\u0663", "1025", "9" * 5000])
def test_what_is_no_number_of_threads_is_refused(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSTEER_THREADS", asked)
    with pytest.raises(InputError, match=r"SPARSTEER_THREADS is .* a whole number from 1 to 1024"):
        free_cores()


def test_a_number_overrides_the_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSTEER_THREADS", "37")
    assert free_cores() == 37
    monkeypatch.setenv("SPARSTEER_THREADS", "")
    assert free_cores() >= 1
