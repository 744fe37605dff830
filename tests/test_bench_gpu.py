"""The benchmark for cards, on the CPU: every part of it runs, and both ways are given the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import OptimaError  # noqa: E402
from optima_lite.learn.dpo import optimise  # noqa: E402
from optima_lite.learn.sft import fine_tune  # noqa: E402
from optima_lite.model.loading import load  # noqa: E402
from optima_lite.model.memory import Limits  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.settings.machine import Machine  # noqa: E402
from optima_lite.settings.sections import DpoSettings, ModelSettings, TrainingSettings  # noqa: E402
from optima_lite.stage.probe import MadeUp  # noqa: E402

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_gpu.py"
sys.path.insert(0, str(SCRIPT.parent))
import bench_gpu  # noqa: E402

SPEEDS = ["dialogues", "search", "turn", "adapter", "reading", "sft", "dpo"]
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little of everything, and all of it in this process."""
    for name, size in {"QUESTIONS": 2, "ROLLOUTS": 2, "TURNS": 2, "EXAMPLES": 2}.items():
        monkeypatch.setattr(bench_gpu, name, size)
    monkeypatch.setattr(bench_gpu, "apart", here)


def here(work: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return work(*args, **named)


def run(out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    sizes = ["--row-tokens", "64", "--turn-tokens", "4"]
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--shape", "tiny", "--out", str(out), *sizes])
    bench_gpu.main()
    return json.loads(out.read_text())


@pytest.mark.slow
def test_on_a_cpu_every_phase_is_measured_once_and_without_a_ceiling(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path / "bench.json", monkeypatch)
    (result,) = found["results"]
    assert (found["shape"], result["ceiling_gib"], result["card"]) == ("tiny", None, "no GPU")
    assert list(result["memory"]) == ["sample", "read", "sft", "dpo", "rl"]
    assert all(phase["forecast_gib"] > 0 for phase in result["memory"].values())
    assert list(result["speed"]) == SPEEDS
    assert all(speed["per_second"] > 0 and speed["plain"] > 0 for speed in result["speed"].values())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| ceiling |") and len(printed) == 2 + len(SPEEDS)
    assert printed[2].startswith("| none | sample |")


def test_a_plain_way_that_runs_out_of_memory_is_told_and_ours_is_an_error() -> None:
    def fails() -> int:
        raise OUT_OF_MEMORY

    speed = bench_gpu._speed("dpo", lambda: 7, fails)
    assert speed.per_second > 0 and speed.plain is None and speed.ratio is None
    rates = {"dpo": {"per_second": 7.0, "ratio": speed.ratio}}
    last = bench_gpu.table([{"ceiling_gib": 12.0, "memory": {}, "speed": rates}]).splitlines()[-1]
    assert last == "| 12 GiB |  | |  | | dpo | 7 | plain: out of memory |"
    with pytest.raises(OptimaError, match="dpo runs out of memory"):
        bench_gpu._speed("dpo", fails, lambda: 7)


def test_a_ceiling_that_fails_leaves_the_others_and_ends_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(work: Any, folder: Path, gib: float, **sizes: int) -> dict[str, Any]:
        if gib == 12:
            raise OptimaError("dpo runs out of memory")
        return {"ceiling_gib": gib, "memory": {}, "speed": {"sft": {"per_second": 1.0, "ratio": 2.0}}}

    monkeypatch.setattr(bench_gpu, "apart", measured)
    monkeypatch.setattr(bench_gpu, "_ceilings", lambda wanted: wanted)
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "bench.json", monkeypatch)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "12 GiB: failed: dpo runs out of memory" in printed.err
    assert [line[:8] for line in printed.out.splitlines()[2:]] == ["| 24 GiB", "| 16 GiB"]
    assert len(json.loads((tmp_path / "bench.json").read_text())["results"]) == 2


def test_ceilings_beyond_the_card_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Card:
        total_memory = int(15.75 * 2**30)

    monkeypatch.setattr(bench_gpu, "apart", here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    assert bench_gpu._ceilings([24, 16, 12]) == [15.75, 12]
    assert capsys.readouterr().out == "24 GiB: left out, the card has 15.8 GiB\n"


def test_the_shape_of_an_8b_is_not_tried_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main()
    assert ended.value.code == "bench_gpu needs an NVIDIA GPU for this shape; --shape tiny or 30m runs on the CPU"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load(ModelSettings(name="tiny"), machine=Machine(), seed=0)


def tokens_of(policy: Policy, work: Callable[[], object]) -> int:
    """Ids that pass the model meanwhile."""
    counted = 0

    def count(module: Any, args: Any, given: dict[str, Any]) -> None:
        nonlocal counted
        counted += given["input_ids"].numel()

    hook = policy.model.get_base_model().model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        work()
    finally:
        hook.remove()
    return counted


def test_both_ways_train_on_the_same_tokens(policy: Policy) -> None:
    limits, ids = Limits(256, 4, 32, 1, 0), MadeUp(policy, seed=0)
    rows, pairs = [ids.row(limits) for _ in range(2)], [ids.pair(limits) for _ in range(2)]
    sft, dpo = TrainingSettings(epochs=1, batch_size=2), DpoSettings(epochs=1, batch_size=2)
    how: dict[str, Any] = {"micro_batch": 1, "seed": 0}
    ours = tokens_of(policy, lambda: fine_tune(policy, rows, settings=sft, on_step=lambda n: None, **how))
    assert ours == tokens_of(policy, lambda: bench_gpu._plain_sft(policy, rows, sft, how)) == 2 * 32
    ours = tokens_of(policy, lambda: optimise(policy, pairs, settings=dpo, on_step=lambda n: None, **how))
    plain = tokens_of(policy, lambda: bench_gpu._plain_dpo(policy, pairs, dpo, how))
    assert ours == plain == 2 * 2 * 2 * 32, "two pairs of two rows, by the adapter and by the reference"
    assert tokens_of(policy, lambda: bench_gpu._plain_reading(policy, rows, limits)) == 2 * 32


def test_a_turn_is_the_same_work_in_all_three_ways(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "ROLLOUTS", 2)
    endless = replace(policy, end_ids=(len(policy.tokenizer) + 9,))
    peft = bench_gpu.PeftAdapter(**{field.name: getattr(endless, field.name) for field in fields(endless)})
    limits, prompts = Limits(256, 4, 32, 1, 0), [MadeUp(policy, seed=seed).text(28) for seed in range(2)]
    ours = tokens_of(policy, lambda: bench_gpu._turn(endless, prompts, limits))
    assert ours == tokens_of(policy, lambda: bench_gpu._turn(peft, prompts, limits)) == 4 * (28 + 3)
    assert bench_gpu._turn(endless, prompts, limits) == bench_gpu._turn(peft, prompts, limits) == 4 * 4
    assert tokens_of(policy, lambda: bench_gpu._plain(endless, prompts, limits, turns=1)) == ours


@pytest.mark.slow
def test_as_a_command_it_measures_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--shape", "tiny", "--out", tmp_path / "bench.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| none | dpo |" in done.stdout
    assert json.loads((tmp_path / "bench.json").read_text())["results"]
