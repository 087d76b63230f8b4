"""What is drawn is what the files say."""

from pathlib import Path

from stableprompt.reporting.charts import Chart, charts_of, shared_charts
from stableprompt.reporting.reading import read_run
from tests.reporting import folders


def charts(folder: Path) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts_of(read_run(folder))}


def test_rewards_stand_over_calls_and_steps_with_what_happened(tmp_path: Path) -> None:
    reward = charts(folders.finished(tmp_path))["reward"]
    assert reward.calls == [40.0, 80.0, 120.0, 160.0, 200.0, 240.0]
    assert reward.steps == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    mean = [0.1 * n for n in range(6)]
    assert reward.series[0].values == mean
    marks = {(mark.kind, mark.calls, mark.steps) for mark in reward.marks}
    assert marks == {("update", 120, 3), ("roll_back", 200, 5), ("alarm", 240, 6)}


def test_validation_holds_the_leader_and_the_decisions(tmp_path: Path) -> None:
    chart = charts(folders.finished(tmp_path))["validation"]
    assert chart.calls == [0, 40, 120, 200, 240]
    leader, policy, anchor = (series.values for series in chart.series)
    assert leader == [0.6, 0.7, None, None, 0.8]
    assert policy == [None, None, 0.6, 0.6, None]
    assert anchor == [None, None, 0.4, 0.4, None]
    assert "n = 9" in chart.about


def test_a_policy_that_does_not_learn_has_no_divergence(tmp_path: Path) -> None:
    frozen = [folders.step(n, update=None) for n in range(3)]
    names = charts(folders.finished(tmp_path, steps=frozen)).keys()
    assert "reward" in names
    assert not {"kl", "entropy", "answers"} & names


def test_lengths_are_those_of_the_policys_own_prompts(tmp_path: Path) -> None:
    lines = [
        folders.written(0, "Name it."),
        folders.written(0, "Name the team of it."),
        folders.written(0, "So many words that nobody else wrote.", writer="first"),
    ]
    prompts = charts(folders.finished(tmp_path, prompts=lines))["length"]
    mean, longest, _ = (series.values[0] for series in prompts.series)
    assert (mean, longest) == (3.5, 5)


def test_answers_of_the_monitors_are_drawn_where_there_were_some(tmp_path: Path) -> None:
    assert "answers" not in charts(folders.finished(tmp_path / "calm"))
    rates = [{"learning_rate": rate, "kl_coef": 0.1} for rate in (4.0, 2.0, 1.0)]
    steps = [folders.step(n, update=update) for n, update in enumerate(rates)]
    [rate] = charts(folders.finished(tmp_path / "alarmed", steps=steps))["answers"].series
    assert rate.values == [1.0, 0.5, 0.25]


def test_runs_share_a_chart(tmp_path: Path) -> None:
    first = read_run(folders.finished(tmp_path / "a"))
    other = read_run(folders.finished(tmp_path / "b", steps=[folders.step(0, target_calls=60)]))
    gain = next(chart for chart in shared_charts([first, other]) if chart.name == "gain")
    assert [series.label for series in gain.series] == ["run 1", "run 2"]
    assert 60.0 in gain.calls
    assert gain.series[1].values.count(None) == len(gain.calls) - 1
