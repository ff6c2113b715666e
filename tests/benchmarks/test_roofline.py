"""Predicted times: bytes and operations are those of the step's shapes; the page has them."""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="steps of a GPU are counted where Triton is"
)


@pytest.fixture
def roofline(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("roofline")


def operations(roofline: Any, name: str) -> tuple[Any, list[Any]]:
    """The sizes of this name, and what a step at them launches."""
    sizes = roofline.SIZES[name]
    return sizes, roofline.count_step(roofline.KIND, **sizes._asdict()).operations


def test_work_is_that_of_the_shapes(roofline: Any) -> None:
    sizes, launched = operations(roofline, "S")
    work = {each.name: roofline.work_of(each) for each in launched}
    assert work["encode_keys_kernel"].flops == sizes.product_flops
    (gathered,) = work["decode_mse_kernel"].gathered.values()
    assert gathered / (2 * sizes.gathered) in (1, 2)
    # Rows and gradients of the reconstruction, each once for each slot, in bfloat16.
    assert sum(work["segments_kernel"].gathered.values()) == 2 * 2 * sizes.gathered
    adam = sum(roofline.work_of(o).streamed for o in launched if o.name == "adam_kernel")
    # Weights and moments read and written, a gradient read; perhaps a bfloat16 copy written.
    assert 28 <= adam / (2 * sizes.weights) < 31


@pytest.mark.slow
def test_every_launch_is_in_one_part_and_large_steps_are_bound_by_bytes(roofline: Any) -> None:
    sizes = roofline.SIZES["L"]
    count = roofline.count_step(roofline.KIND, **sizes._asdict())
    found = roofline.predict(count, sizes, roofline.PEAKS["h100"])
    total = found.pop("total")
    assert total.launches == count.launches == sum(part.launches for part in found.values())
    for part in found.values():
        assert part.floor_us <= part.gpu_us
    more_memory = roofline.predict(count, sizes, roofline.PEAKS["h200"])["total"]
    assert 0.6 * total.floor_us < more_memory.floor_us < 0.95 * total.floor_us


@pytest.mark.parametrize(("latents", "speed"), [(1000, "l2_tb_per_s"), (10**6, "memory_tb_per_s")])
def test_gathers_take_the_speed_of_the_cache_where_the_matrix_fits(
    roofline: Any, latents: int, speed: str
) -> None:
    width, slots = 512, 10**6
    indices = roofline.Operand((slots, 1), 0, 1)
    weights = roofline.Operand((latents, width), latents * width * 2, 2)
    operands = {"indices_ptr": indices, "weights_ptr": weights}
    operation = roofline.Operation("decode_kernel", 1, 0, operands, {})
    peaks = roofline.PEAKS["h100"]
    floor, predicted = roofline.times_us(operation, peaks)
    assert floor == pytest.approx(slots * width * 2 / getattr(peaks, speed) / 1e6)
    assert predicted == pytest.approx(floor / 0.9)


@pytest.mark.slow
def test_one_json_object_says_that_it_is_predicted(
    roofline: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["roofline.py", "--json", "--gpu", "a100"])
    roofline.main()
    found = json.loads(capsys.readouterr().out)
    assert found["predicted"] is True and found["gpu"] == "a100"
    for name in ("S", "L"):
        each = found["sizes"][name]
        assert each["step_us"] == max(each["host_us"], each["parts"]["total"]["gpu_us"])


def test_the_newest_table_is_that_of_the_code(roofline: Any) -> None:
    newest = sorted((ROOT / "benchmarks" / "results").glob("????-??-??-roofline.md"))[-1]
    text = newest.read_text(encoding="utf-8")
    peaks = roofline.PEAKS["h100"]
    predicted = {
        name: roofline.predict(roofline.count_step(roofline.KIND, **sizes._asdict()), sizes, peaks)
        for name, sizes in roofline.SIZES.items()
    }
    for row in roofline.table(predicted, "h100")[1]:
        assert f"| {' | '.join(row)} |" in text, "run: make roofline"
