import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks import source
from stableprompt.tasks.benchmarks.benchmark import Benchmark
from stableprompt.tasks.benchmarks.entries import benchmark_names, find_benchmark
from stableprompt.tasks.benchmarks.source import DATA_VARIABLE, BenchmarkRows, load_rows
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.named import load_named
from stableprompt.tasks.table import read_jsonl
from stableprompt.tasks.task import Task

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data")
with_data = pytest.mark.skipif(
    not (DATA / "mmlu").is_dir(),
    reason=f"no benchmark data in {DATA}; set {DATA_VARIABLE} to the folder that has them",
)


read_once = cache(read_jsonl)
"""57 subjects share two files, and the rows of a file are not changed."""


@pytest.fixture(autouse=True)
def _no_data_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def sizes(benchmark: Benchmark, fold: int = 0) -> dict[str, int]:
    rows = load_rows(benchmark, DATA, fold).rows
    return dict(Counter(str(row["split"]) for row in rows))


# With the data folder


# Lines of the files, as the README of the data folder has them.
SIZES = {
    "sst2": (32, 32, 1821),
    "mrpc": (32, 32, 1725),
    "rte": (32, 32, 277),
    "qnli": (32, 32, 2500),
    "mnli": (48, 48, 1000),
    "snli": (48, 48, 1000),
    "agnews": (64, 64, 4000),
    "openbookqa": (4457, 500, 500),
    "mmlu": (285, 0, 3990),
    "mmlu/anatomy": (285, 0, 70),
    "ii/antonyms": (1000, 0, 100),
    "ii/informal_to_formal": (15, 0, 15),
    "bbii/snarks": (60, 0, 121),
    "bbii/timedial": (133, 0, 267),
}


@with_data
@pytest.mark.parametrize("name", SIZES)
def test_every_row_of_the_folder_is_read(name: str) -> None:
    train, validation, test = SIZES[name]
    expected = {"train": train, "validation": validation, "test": test}
    found = sizes(find_benchmark(name))
    assert found == {split: count for split, count in expected.items() if count}


@with_data
@pytest.mark.parametrize("name", benchmark_names())
def test_every_benchmark_has_rows_as_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "read_jsonl", read_once)
    benchmark = find_benchmark(name)
    loaded = load_rows(benchmark, DATA)
    for row in loaded.rows:
        assert set(row) == {*benchmark.columns, "split"}
        for column in benchmark.text:
            text = row[column]
            assert isinstance(text, str)
            assert text.strip()
        answer: Any = row[benchmark.label]
        if benchmark.kind == TaskKind.CLASSIFICATION:
            assert answer in (benchmark.label_words or {})
        elif benchmark.kind == TaskKind.MULTIPLE_CHOICE:
            choices: Any = row[str(benchmark.choices)]
            assert 0 <= answer < len(choices)
        else:
            assert isinstance(answer, list)
            assert any(reference.strip() for reference in answer)
    if benchmark.kind == TaskKind.CLASSIFICATION:
        for split in ("train", "test"):
            here = {row[benchmark.label] for row in loaded.rows if row["split"] == split}
            assert here == set(benchmark.label_words or {})


@with_data
@pytest.mark.parametrize("name", [n for n in benchmark_names() if n.startswith(("ii/", "bbii/"))])
def test_the_longest_reference_fits_into_the_answer(name: str) -> None:
    benchmark = find_benchmark(name)
    if benchmark.max_answer_tokens is None:
        return
    answers: list[Any] = [row[benchmark.label] for row in load_rows(benchmark, DATA).rows]
    longest = max(len(reference) for references in answers for reference in references)
    # Text that no tokenizer was made for has about two characters a token.
    assert longest <= 2 * benchmark.max_answer_tokens


@with_data
@pytest.mark.parametrize("name", ["sst2", "mrpc", "rte", "qnli", "mnli", "snli", "agnews"])
def test_every_few_shot_draw_has_16_of_each_label(name: str) -> None:
    benchmark = find_benchmark(name)
    draws = []
    for fold in range(5):
        rows = load_rows(benchmark, DATA, fold).rows
        for split in ("train", "validation"):
            labels = Counter(row["label"] for row in rows if row["split"] == split)
            assert labels == dict.fromkeys(benchmark.label_words or {}, 16)
        draws.append([row for row in rows if row["split"] == "train"])
    assert all(draws[i] != draws[j] for i in range(5) for j in range(i))


@with_data
@pytest.mark.parametrize("name", ["mrpc", "rte", "qnli", "mnli", "snli"])
def test_the_fields_of_a_pair_are_its_text(name: str) -> None:
    # Laying the fields out again must give the text back, for every row of the folder.
    benchmark = find_benchmark(name)
    assert benchmark.input_format is not None
    lines = (DATA / name / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in load_rows(benchmark, DATA).rows if row["split"] == "test"]
    assert [benchmark.input_format.format(**row) for row in rows] == [
        json.loads(line)["text"] for line in lines
    ]


@with_data
def test_seed_prompts_are_the_ones_of_the_data() -> None:
    for name in benchmark_names():
        benchmark, member = find_benchmark(name), name.rpartition("/")[2]
        if name.startswith("ii/"):
            file = DATA / "instruction_induction" / member / "annotations.json"
            known = json.loads(file.read_text(encoding="utf-8"))["annotations"][0]
        elif name.startswith("bbii/"):
            file = DATA / "bigbench_ii" / member / "meta.json"
            known = json.loads(file.read_text(encoding="utf-8"))["task_prefix"]
        else:
            continue
        assert benchmark.seed_prompt == known.strip()


@with_data
def test_big_bench_classes_are_the_choices_of_every_example() -> None:
    for name in benchmark_names():
        benchmark, member = find_benchmark(name), name.rpartition("/")[2]
        if name.startswith("bbii/") and benchmark.kind == TaskKind.CLASSIFICATION:
            for file in ("train.jsonl", "test.jsonl"):
                text = (DATA / "bigbench_ii" / member / file).read_text(encoding="utf-8")
                choices = {tuple(json.loads(line)["choices"]) for line in text.splitlines()}
                assert choices == {tuple(benchmark.label_words or {})}


@with_data
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("sst2", (32, 32, 1821)),
        ("mnli", (48, 48, 1000)),
        ("mmlu/anatomy", (162, 122, 70)),
        ("ii/rhymes", (32, 32, 100)),
        ("ii/cause_and_effect", (15, 11, 25)),
        ("bbii/navigate", (30, 30, 267)),
        ("bbii/timedial", (30, 30, 267)),
        ("bbii/tense", (30, 30, 191)),
    ],
)
def test_the_rows_and_options_make_a_task(name: str, sizes: tuple[int, int, int]) -> None:
    # Where there is no validation, 3/7 of train become it (284 -> 162 and 122, the nearest whole
    # numbers to 4/7 and 3/7; one dev question of MMLU is there twice); then the limit is drawn.
    benchmark = find_benchmark(name)
    loaded = load_rows(benchmark, DATA)
    task = Task.from_records(loaded.rows, **loaded.options)
    assert (len(task.train), len(task.validation), len(task.test)) == sizes
    assert (task.name, task.kind, task.seed_prompt) == (name, benchmark.kind, benchmark.seed_prompt)
    assert task.metric.name == benchmark.metric
    if benchmark.label_words is not None:
        assert task.verbalizer is not None
        assert task.verbalizer.words == benchmark.label_words


# From a folder made here


def pairs(*labels: str) -> list[dict[str, str]]:
    return [
        {"text": f"Premise: p{i}\nmore\nHypothesis: h{i}\nHypothesis: again", "label": label}
        for i, label in enumerate(labels)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in (13, 21):
        write(tmp_path / f"kshot16/rte/16-{seed}/train.jsonl", pairs("entailment"))
        write(tmp_path / f"kshot16/rte/16-{seed}/dev.jsonl", pairs("not_entailment", "entailment"))
    write(tmp_path / "rte/test.jsonl", pairs("entailment", "entailment", "not_entailment"))
    questions = [
        {"input": f"q {subject} {i}", "choices": ["a", "b"], "answer_index": i, "output": "?",
         "subject": subject}
        for subject in ("anatomy", "virology") for i in range(2)
    ]  # fmt: skip
    write(tmp_path / "mmlu/dev.jsonl", questions)
    write(tmp_path / "mmlu/test.jsonl", questions)
    for split in ("train", "test"):
        write(
            tmp_path / f"bigbench_ii/snarks/{split}.jsonl",
            [{"input": "i", "choices": ["(a)", "(b)"], "answer_index": 1, "outputs": ["(b)"]}],
        )
        write(
            tmp_path / f"instruction_induction/rhymes/{split}.jsonl",
            [{"input": "eat", "outputs": ["seat", "feet"]}],
        )
    return tmp_path


def test_the_folder_can_be_named_by_a_string_too(tmp_path: Path) -> None:
    for split, words in (("train", ("eat", "cat", "log")), ("test", ("sky",))):
        rows = [{"input": word, "outputs": ["seat"]} for word in words]
        write(tmp_path / f"instruction_induction/rhymes/{split}.jsonl", rows)
    by_text = load_named("ii/rhymes", data_dir=str(tmp_path))
    assert by_text.splits == load_named("ii/rhymes", data_dir=tmp_path).splits


def rhymes(tmp_path: Path, *outputs: list[str]) -> BenchmarkRows:
    for split in ("train", "test"):
        rows = [{"input": "eat", "outputs": each} for each in outputs]
        write(tmp_path / f"instruction_induction/rhymes/{split}.jsonl", rows)
    return load_rows(find_benchmark("ii/rhymes"), tmp_path)


def test_a_word_is_no_rhyme_of_itself(tmp_path: Path) -> None:
    loaded = rhymes(tmp_path, ["seat", "Eat ", "feet", "EAT!"], ["eat", "heat"])
    assert [row["outputs"] for row in loaded.rows[:2]] == [["seat", "feet"], ["heat"]]
    assert any("input word itself" in note for note in loaded.notes)


def test_an_input_without_another_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train row has no answer but its input, 'eat'"):
        rhymes(tmp_path, ["seat"], ["EAT"])


@with_data
def test_of_the_real_rhymes_none_is_the_word_itself() -> None:
    task = load_named("ii/rhymes", data_dir=DATA)
    examples = [*task.train, *task.validation, *task.test]
    assert task.metric.score(examples, [e.text for e in examples]) == 0
    assert not [note for note in task.notes if "repeats its input" in note]


@with_data
def test_where_the_first_of_two_sentences_is_right_a_note_says_that_repeating_scores() -> None:
    notes = load_named("ii/cause_and_effect", data_dir=DATA).notes
    assert [note for note in notes if "repeats its input" in note]


def test_a_pair_is_parted_at_the_first_literal(folder: Path) -> None:
    loaded = load_rows(find_benchmark("rte"), folder)
    assert [(row["split"], row["label"]) for row in loaded.rows] == [
        ("train", "entailment"),
        ("validation", "not_entailment"),
        ("validation", "entailment"),
        ("test", "entailment"),
        ("test", "entailment"),
        ("test", "not_entailment"),
    ]
    assert loaded.rows[0] == {
        "premise": "p0\nmore",
        "hypothesis": "h0\nHypothesis: again",
        "label": "entailment",
        "split": "train",
    }
    benchmark = find_benchmark("rte")
    assert loaded.options == {
        "name": "rte",
        "kind": "classification",
        "text": ["premise", "hypothesis"],
        "label": "label",
        "input_format": "Premise: {premise}\nHypothesis: {hypothesis}",
        "seed_prompt": benchmark.seed_prompt,
        "label_words": {"entailment": "yes", "not_entailment": "no"},
        "metric": "accuracy",
        "seed": 0,
    }
    assert loaded.notes == (benchmark.note,)


@pytest.mark.parametrize(
    "text",
    ["Premise: a Hypothesis: b", "Premise: \nHypothesis: b", "Premise: a\nHypothesis: ", "x"],
)
def test_a_row_laid_out_otherwise_is_refused(folder: Path, text: str) -> None:
    write(folder / "rte/test.jsonl", [*pairs("entailment"), {"text": text, "label": "entailment"}])
    with pytest.raises(DataError, match=r"test\.jsonl, row 2: .* is not laid out as 'Premise: "):
        load_rows(find_benchmark("rte"), folder)


def test_the_fold_chooses_the_draw_and_the_seed(folder: Path) -> None:
    write(folder / "kshot16/rte/16-21/train.jsonl", pairs("not_entailment"))
    loaded = load_rows(find_benchmark("rte"), folder, fold=1)
    assert loaded.rows[0]["label"] == "not_entailment"
    assert loaded.options["seed"] == 1


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        (5, r"rte has 5 few-shot draws \(of the seeds 13, 21, 42, 87, 100\), found fold 5: give 0"),
        (-1, "rte: fold is counted from 0, found -1"),
        (2, r"rte: no such file: .*16-42.train\.jsonl; name the folder that has it with --data"),
    ],
)
def test_a_draw_that_is_not_there(folder: Path, fold: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_rows(find_benchmark("rte"), folder, fold)


def test_without_draws_the_fold_is_only_the_seed(folder: Path) -> None:
    first, sixth = (load_rows(find_benchmark("ii/rhymes"), folder, fold) for fold in (0, 6))
    assert first.rows == sixth.rows
    assert (first.options["seed"], sixth.options["seed"]) == (0, 6)


def test_a_subject_is_tested_alone(folder: Path) -> None:
    loaded = load_rows(find_benchmark("mmlu/anatomy"), folder)
    assert [(row["split"], row["input"]) for row in loaded.rows] == [
        ("train", "q anatomy 0"),
        ("train", "q anatomy 1"),
        ("train", "q virology 0"),
        ("train", "q virology 1"),
        ("test", "q anatomy 0"),
        ("test", "q anatomy 1"),
    ]
    assert loaded.rows[1] == {
        "input": "q anatomy 1",
        "choices": ["a", "b"],
        "answer_index": 1,
        "split": "train",
    }
    assert loaded.options["choices"] == "choices"
    assert loaded.options["choice_style"] == "letters"
    assert loaded.options["text"] == "input"
    with pytest.raises(DataError, match="no test rows with subject = 'sociology'"):
        load_rows(find_benchmark("mmlu/sociology"), folder)


def test_a_class_in_a_list_of_one_is_taken_out(folder: Path) -> None:
    loaded = load_rows(find_benchmark("bbii/snarks"), folder)
    assert loaded.rows[0] == {"input": "i", "outputs": "(b)", "split": "train"}
    assert loaded.options["limit"] == {"train": 30, "validation": 30}


def test_references_stay_a_list(folder: Path) -> None:
    loaded = load_rows(find_benchmark("ii/rhymes"), folder)
    assert loaded.rows[0] == {"input": "eat", "outputs": ["seat", "feet"], "split": "train"}
    assert loaded.options["max_answer_tokens"] == 40
    assert "label_words" not in loaded.options


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input": "i", "outputs": ["(c)"]}, r"has the label '\(c\)', known are '\(a\)', '\(b\)'"),
        ({"input": "i", "outputs": ["(a)", "(b)"]}, "has the label"),
        ({"input": "i"}, "a test row has no 'outputs', found 'input', 'split'"),
        ({"input": None, "outputs": ["(a)"]}, "a test row has no 'input'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(
    folder: Path, row: dict[str, object], message: str
) -> None:
    write(folder / "bigbench_ii/snarks/test.jsonl", [row])
    with pytest.raises(DataError, match=message):
        load_rows(find_benchmark("bbii/snarks"), folder)


def test_a_missing_file_names_the_ways_out(folder: Path) -> None:
    (folder / "rte/test.jsonl").unlink()
    with pytest.raises(DataError, match=r"no such file: .*test\.jsonl.*nyu-mll/glue from the hub"):
        load_rows(find_benchmark("rte"), folder)
    with pytest.raises(DataError, match=r"no such file: .*\(no copy on the hub is known\)"):
        load_rows(find_benchmark("ii/sum"), folder)
    with pytest.raises(DataError, match=r"no such data folder: .*nowhere"):
        load_rows(find_benchmark("rte"), folder / "nowhere")


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(folder))
    assert len(load_rows(find_benchmark("mmlu"), None).rows) == 8
    # What is given wins.
    with pytest.raises(DataError, match="no such file: other"):
        (folder / "other").mkdir()
        monkeypatch.chdir(folder)
        load_rows(find_benchmark("mmlu"), Path("other"))


# From the hub


class FakeHub:
    """Answers like the hub, and remembers what it was asked."""

    def __init__(self, rows: list[dict[str, object]]) -> None:
        self.rows = rows
        self.asked: list[tuple[str, dict[str, object]]] = []

    def read_hub(self, dataset: str, **options: object) -> SimpleNamespace:
        self.asked.append((dataset, options))
        return SimpleNamespace(rows=self.rows, notes=("from afar",))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub([])
    monkeypatch.setitem(sys.modules, "stableprompt.tasks.hub", fake)
    return fake


def glue_rows(count: int) -> list[dict[str, object]]:
    train: list[dict[str, object]] = [
        {"sentence1": f"{label} {i}", "sentence2": "s", "label": label, "split": "train", "idx": i}
        for label in ("entailment", "not_entailment")
        for i in range(count)
    ]
    test = {"sentence1": "t", "sentence2": "u", "label": "entailment", "split": "test"}
    return [*train, {**test}]


def test_shots_are_drawn_from_the_hub(hub: FakeHub) -> None:
    hub.rows = glue_rows(40)
    loaded = load_rows(find_benchmark("rte"), None, fold=3)
    asked = {
        "config": "rte",
        "splits": {"train": "train", "test": "validation"},
        "label": "label",
    }
    assert hub.asked == [("nyu-mll/glue", asked)]
    counts = Counter((row["split"], row["label"]) for row in loaded.rows)
    assert counts == {
        ("train", "entailment"): 16,
        ("train", "not_entailment"): 16,
        ("validation", "entailment"): 16,
        ("validation", "not_entailment"): 16,
        ("test", "entailment"): 1,
    }
    # No example is in both.
    assert len({row["premise"] for row in loaded.rows}) == 65
    assert loaded.rows[-1] == {
        "premise": "t",
        "hypothesis": "u",
        "label": "entailment",
        "split": "test",
    }
    assert loaded.notes[0] == "from afar"
    assert "with the seed 3: not the draw of LM-BFF" in loaded.notes[1]
    assert loaded.options["seed"] == 3


def test_a_fold_of_the_hub_is_the_same_every_time(hub: FakeHub) -> None:
    hub.rows = glue_rows(40)
    benchmark = find_benchmark("rte")
    first, again, other = (load_rows(benchmark, None, fold).rows for fold in (0, 0, 1))
    assert first == again
    assert first != other


def test_an_unknown_label_on_the_hub_is_refused(hub: FakeHub) -> None:
    hub.rows = [*glue_rows(40), {**glue_rows(1)[0], "label": "hidden"}]
    with pytest.raises(DataError, match="a train row has the label 'hidden', known are 'entail"):
        load_rows(find_benchmark("rte"), None)


def test_too_few_rows_for_the_shots(hub: FakeHub) -> None:
    hub.rows = glue_rows(31)
    with pytest.raises(DataError, match="32 train rows of each label are needed, found 31 of 'ent"):
        load_rows(find_benchmark("rte"), None)


def test_hub_columns_get_our_names(hub: FakeHub) -> None:
    choices = {"text": ["a", "b"], "label": ["A", "B"]}
    hub.rows = [
        {"question_stem": f"q{i}", "choices": choices, "answerKey": "B", "split": split, "id": i}
        for i, split in enumerate(("train", "validation", "test"))
    ]
    loaded = load_rows(find_benchmark("openbookqa"), None)
    assert loaded.rows == [
        {"input": f"q{i}", "choices": choices, "answer_index": "B", "split": split}
        for i, split in enumerate(("train", "validation", "test"))
    ]


def test_hub_rows_are_filtered(hub: FakeHub) -> None:
    hub.rows = [
        {"question": f"{split} {s}", "choices": ["a"], "answer": "A", "subject": s, "split": split}
        for split in ("train", "test")
        for s in ("anatomy", "virology")
    ]
    loaded = load_rows(find_benchmark("mmlu/virology"), None)
    asked = {"config": "all", "splits": {"train": "dev", "test": "test"}, "label": "answer"}
    assert hub.asked == [("cais/mmlu", asked)]
    assert [(row["split"], row["input"]) for row in loaded.rows] == [
        ("train", "train anatomy"),
        ("train", "train virology"),
        ("test", "test virology"),
    ]


def test_a_hub_without_a_split(hub: FakeHub) -> None:
    hub.rows = [row for row in glue_rows(40) if row["split"] == "train"]
    with pytest.raises(DataError, match="rte: there are no test rows; name the folder"):
        load_rows(find_benchmark("rte"), None)


def test_no_copy_on_the_hub(hub: FakeHub) -> None:
    with pytest.raises(DataError, match="ii/sum: no copy on the hub is known; name a data folder"):
        load_rows(find_benchmark("ii/sum"), None)
    assert hub.asked == []


def test_the_hub_reader_is_asked_as_it_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # A folder in the hub's layout goes the way of a hub name.
    folder = tmp_path / "rte"
    for split, file in (("train", "train.jsonl"), ("test", "validation.jsonl")):
        write(folder / file, ({**r, "split": "?"} for r in glue_rows(40) if r["split"] == split))
    rte = find_benchmark("rte")
    assert rte.hub is not None
    loaded = load_rows(replace(rte, hub=replace(rte.hub, id=str(folder), config=None)), None)
    assert Counter(row["split"] for row in loaded.rows) == {
        "train": 32,
        "validation": 32,
        "test": 1,
    }
    assert loaded.rows[-1]["premise"] == "t"
