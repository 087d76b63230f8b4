import re
from pathlib import Path

import pytest

from stableprompt.errors import DataError
from stableprompt.tasks.benchmarks.benchmark import (
    PROMPT_ORIGINS,
    Benchmark,
    HubSource,
    LocalSource,
)
from stableprompt.tasks.benchmarks.entries import (
    BenchmarkFamily,
    benchmark_names,
    families,
    find_benchmark,
    kinds_of,
    read_catalogue,
)
from stableprompt.tasks.example import TaskKind
from stableprompt.tasks.metrics.registry import metric_names

# Metric -> the kinds that it is used for here.
METRICS = {
    "accuracy": {TaskKind.CLASSIFICATION, TaskKind.MULTIPLE_CHOICE},
    "multiple_choice_grade": {TaskKind.CLASSIFICATION, TaskKind.MULTIPLE_CHOICE},
    "exact_match_strict": {TaskKind.GENERATION},
    "ii_exact_match": {TaskKind.GENERATION},
    "ii_exact_set": {TaskKind.GENERATION},
    "ii_contains": {TaskKind.GENERATION},
    "ii_f1": {TaskKind.GENERATION},
}

ENTRY = """
["a/one"]
title = "One {member}"
kind = "classification"
source = "Somebody 2020"
licence = "CC0-1.0"
metric = "accuracy"
seed_prompt = "Judge {x}."
seed_prompt_from = "ours"
columns = {text = ["x", "y"], label = "l"}
input_format = "{x} or {y}"
label_words = {a = "A", b = "B"}
limit = {test = 9}
filters = {test = {topic = "{member}"}}
local = {train = "{member}/{fold}.jsonl", test = "{member}.jsonl", folds = [7, 8], @}
hub = {id = "o/n", config = "c", splits = {train = "t", test = "v"}, columns = {x = "z"}, shots = 3}

[families]
"a/*" = "All of a"
""".replace("@", 'text_pattern = "{x}-{y}"')


def one(folder: Path, text: str = ENTRY) -> Benchmark:
    (folder / "some.toml").write_text(text, encoding="utf-8")
    return find_benchmark("a/one", read_catalogue(folder))


# The package's own catalogue


def test_the_catalogue_is_complete() -> None:
    names = benchmark_names()
    single = ["agnews", "mmlu", "mnli", "mrpc", "openbookqa", "qnli", "rte", "snli", "sst2"]
    assert [name for name in names if "/" not in name] == single
    # 57 subjects (MMLU), 24 tasks (Instruction Induction), 22 tasks (APE's BIG-bench, of 23).
    heads = [name.partition("/")[0] for name in names if "/" in name]
    assert {head: heads.count(head) for head in heads} == {"bbii": 22, "ii": 24, "mmlu": 57}
    assert list(names) == sorted(set(names))


def test_a_listing_has_one_line_a_family() -> None:
    lines = families()
    assert {line.name: len(line.members) for line in lines if line.name.endswith("/*")} == {
        "bbii/*": 22,
        "ii/*": 24,
        "mmlu/*": 57,
    }
    assert [name for line in lines for name in line.members] == sorted(
        benchmark_names(), key=lambda name: (name.partition("/")[0], "/" in name, name)
    )
    assert all(line.title for line in lines)
    sst2 = next(line for line in lines if line.name == "sst2")
    assert sst2 == BenchmarkFamily("sst2", find_benchmark("sst2").title, ("sst2",))


def test_the_kinds_of_a_listing_are_those_of_the_benchmarks() -> None:
    for family in families():
        assert kinds_of(family.members) == {find_benchmark(name).kind for name in family.members}


@pytest.mark.parametrize("name", benchmark_names())
def test_every_entry_says_all_it_must(name: str) -> None:
    benchmark = find_benchmark(name)
    assert benchmark.name == name
    assert benchmark.kind in METRICS[benchmark.metric]
    assert benchmark.metric in metric_names(benchmark.kind)
    assert benchmark.seed_prompt_from in PROMPT_ORIGINS
    # A citation with a year; a licence, or where to look for it.
    assert re.search(r"(19|20)\d\d", benchmark.source)
    assert len(benchmark.licence) > 2
    for text in (benchmark.title, benchmark.seed_prompt, benchmark.source, benchmark.note):
        assert text == text.strip()
        assert "\n" not in text
    # The code of the paper has these at the end of its prompts.
    assert not benchmark.seed_prompt.endswith(("'", ","))
    assert "{member}" not in repr(benchmark)


def test_seed_prompts_of_ours_say_what_may_be_answered() -> None:
    ours = [b for b in map(find_benchmark, benchmark_names()) if b.seed_prompt_from == "ours"]
    assert {b.name for b in ours if "/" not in b.name} == {"agnews", "qnli", "mmlu", "openbookqa"}
    for benchmark in ours:
        words = benchmark.label_words or dict.fromkeys("ABCD", "A, B, C or D")
        assert all(word in benchmark.seed_prompt for word in words.values()), benchmark.name


def test_paper_prompts_say_every_label_word() -> None:
    for name in ("sst2", "mrpc", "rte", "mnli", "snli"):
        benchmark = find_benchmark(name)
        assert benchmark.seed_prompt_from == "paper's code"
        assert benchmark.label_words is not None
        assert all(word in benchmark.seed_prompt for word in benchmark.label_words.values())


def test_label_words_are_those_of_the_paper() -> None:
    # dataset_dicts in the released code; label 0 first.
    nli = {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"}
    expected = {
        "sst2": {"negative": "no", "positive": "yes"},
        "mrpc": {"not_equivalent": "No", "equivalent": "Yes"},
        "rte": {"entailment": "yes", "not_entailment": "no"},
        "qnli": {"entailment": "yes", "not_entailment": "no"},
        "mnli": nli,
        "snli": nli,
        "agnews": {
            "World": "World",
            "Sports": "Sports",
            "Business": "Business",
            "Sci/Tech": "Technology",
        },
    }
    for name, words in expected.items():
        # In order: it becomes that of the class indices.
        assert list((find_benchmark(name).label_words or {}).items()) == list(words.items())


def test_instruction_induction_is_scored_as_its_authors_do() -> None:
    # TASK_TO_METRIC of Honovich et al.; exact match for all others.
    own = {
        "ii/common_concept": "ii_f1",
        "ii/informal_to_formal": "ii_f1",
        "ii/orthography_starts_with": "ii_exact_set",
        "ii/taxonomy_animal": "ii_exact_set",
        "ii/synonyms": "ii_contains",
    }
    for name in benchmark_names():
        if name.startswith("ii/"):
            assert find_benchmark(name).metric == own.get(name, "ii_exact_match")


def test_only_choices_of_one_s_own_make_multiple_choice() -> None:
    own_choices = {
        name.removeprefix("bbii/")
        for name in benchmark_names()
        if name.startswith("bbii/") and find_benchmark(name).kind == TaskKind.MULTIPLE_CHOICE
    }
    assert own_choices == {
        "disambiguation_qa",
        "movie_recommendation",
        "question_selection",
        "ruin_names",
        "timedial",
    }


def test_hub_ids() -> None:
    known = {name: find_benchmark(name).hub for name in benchmark_names()}
    glue = {name: hub.config for name, hub in known.items() if hub and hub.id == "nyu-mll/glue"}
    assert glue == {name: name for name in ("mnli", "mrpc", "qnli", "rte", "sst2")}
    assert {hub.id for hub in known.values() if hub is not None} == {
        "nyu-mll/glue",
        "stanfordnlp/snli",
        "fancyzhx/ag_news",
        "cais/mmlu",
        "allenai/openbookqa",
    }
    # The labels of GLUE's test splits are hidden; those of SNLI and AG News are not.
    tests = {name: hub.splits["test"] for name, hub in known.items() if hub and "/" not in name}
    assert tests == {
        **dict.fromkeys(("sst2", "mrpc", "rte", "qnli"), "validation"),
        **dict.fromkeys(("snli", "agnews", "mmlu", "openbookqa"), "test"),
        "mnli": "validation_matched",
    }
    shots = {name for name, hub in known.items() if hub and hub.shots == 16}
    assert shots == {"sst2", "mrpc", "rte", "qnli", "mnli", "snli", "agnews"}


def test_a_subject_filters_test_only_and_says_so() -> None:
    anatomy = find_benchmark("mmlu/anatomy")
    assert anatomy.filters == {"test": {"subject": "anatomy"}}
    assert "all 57" in anatomy.note
    assert "validation" not in anatomy.local.files
    assert find_benchmark("mmlu").filters == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sst", r"no benchmark 'sst': did you mean sst2"),
        ("mmlu/anatomi", r"did you mean mmlu/anatomy.*\? there are agnews, bbii/\*, ii/\*, mmlu,"),
        ("bbii/hyperbaton", "no benchmark"),
        ("mmlu/*", "no benchmark"),
        ("mmlu/../../x", "no benchmark"),
        ("", "no benchmark ''"),
    ],
)
def test_an_unknown_name_lists_close_ones(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_benchmark(name)


# Reading


def test_an_entry_becomes_a_benchmark(tmp_path: Path) -> None:
    assert one(tmp_path) == Benchmark(
        name="a/one",
        title="One one",
        kind=TaskKind.CLASSIFICATION,
        source="Somebody 2020",
        licence="CC0-1.0",
        metric="accuracy",
        seed_prompt="Judge {x}.",
        seed_prompt_from="ours",
        text=("x", "y"),
        label="l",
        choices=None,
        local=LocalSource(
            files={"train": "one/{fold}.jsonl", "test": "one.jsonl"},
            folds=(7, 8),
            text_pattern="{x}-{y}",
        ),
        hub=HubSource(
            id="o/n", config="c", splits={"train": "t", "test": "v"}, columns={"x": "z"}, shots=3
        ),
        label_words={"a": "A", "b": "B"},
        input_format="{x} or {y}",
        choice_style=None,
        limit={"test": 9},
        max_answer_tokens=None,
        filters={"test": {"topic": "one"}},
        input_is_no_answer=False,
        note="",
    )


def test_defaults_lie_under_every_entry_table_by_table(tmp_path: Path) -> None:
    text = """
        [defaults]
        kind = "generation"
        metric = "exact_match"
        source = "S 2000"
        licence = "CC0-1.0"
        seed_prompt = "Answer."
        seed_prompt_from = "ours"
        max_answer_tokens = 5
        columns = {text = "q", label = "r"}
        local = {train = "{member}/a.jsonl", test = "{member}/b.jsonl"}
        [families]
        "f/*" = "F"
        ["f/*"]
        title = "{member}"
        members = ["u", "v"]
        [g]
        title = "G"
        columns = {text = "p"}
        max_answer_tokens = 6
        local = {test = "c.jsonl"}
    """
    (tmp_path / "some.toml").write_text(text, encoding="utf-8")
    (tmp_path / "README.md").write_text("not read", encoding="utf-8")
    catalogue = read_catalogue(tmp_path)
    assert benchmark_names(catalogue) == ("f/u", "f/v", "g")
    found = {name: find_benchmark(name, catalogue) for name in benchmark_names(catalogue)}
    assert {name: (b.title, b.text, b.max_answer_tokens) for name, b in found.items()} == {
        "f/u": ("u", ("q",), 5),
        "f/v": ("v", ("q",), 5),
        "g": ("G", ("p",), 6),
    }
    assert found["f/v"].local.files == {"train": "v/a.jsonl", "test": "v/b.jsonl"}
    assert found["g"].local.files == {"train": "g/a.jsonl", "test": "c.jsonl"}
    assert found["g"].label == "r"
    assert families(catalogue) == (
        BenchmarkFamily("f/*", "F", ("f/u", "f/v")),
        BenchmarkFamily("g", "G", ("g",)),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("licence =", "license =", "some.toml, entry 'a/one': no licence; correct the entry"),
        ("metric = ", "colour = 'red'\nmetric = ", "unknown key 'colour'; known are title, kind"),
        ('"One {member}"', "1", "title: must be str, found '1'"),
        ('"One {member}"', '" "', "title: is empty"),
        ('"classification"', '"regression"', "kind: must be one of classification, multiple"),
        ('"classification"', '"generation"', "generation must not have label_words"),
        ('"ours"', '"mine"', "seed_prompt_from: must be one of paper's code"),
        ('b = "B"', "b = 2", "label_words.b: must be str, found '2'"),
        (', b = "B"', "", "label_words needs two labels or more"),
        ("label_words =", "choice_style = 'text'\nlabel_words =", "must not have choice_style"),
        ('label = "l"', 'label = "l", choices = "c"', "must not have columns.choices"),
        (
            "label_words =",
            "input_is_no_answer = true\nlabel_words =",
            "classification must not have input_is_no_answer",
        ),
        ('label = "l"', 'lable = "l"', "columns: unknown key 'lable'"),
        (', label = "l"', "", "columns: no label"),
        ('["x", "y"]', "[]", "text names no column"),
        ('["x", "y"]', '["x", 3]', "text: must be str, found '3'"),
        ('"{x} or {y}"', '"{x}"', "input_format: shows 'x', must show 'x', 'y'"),
        ('input_format = "{x} or {y}"', "", "input_format: needed to lay out 'x', 'y'"),
        ("test = 9", "test = 0", "limit must be positive"),
        ("test = 9", "tset = 9", "limit: unknown key 'tset'"),
        ("test = 9", "test = true", "limit.test: must be int, found 'True'"),
        ("{test = {topic", "{dev = {topic", "filters: unknown key 'dev'"),
        ('topic = "{member}"', "topic = 1", "filters.test.topic: must be str"),
        ('test = "{member}.jsonl", ', "", "local: no test"),
        ('test = "{member}.jsonl"', 'test = "../x.jsonl"', "'../x.jsonl' leaves the data folder"),
        ('test = "{member}.jsonl"', 'test = "/x.jsonl"', "leaves the data folder"),
        ('test = "{member}.jsonl"', "test = 'a\\..\\x'", "leaves the data folder"),
        ('test = "{member}.jsonl"', 'test = "one/{fold}.jsonl"', "two splits read the same file"),
        ("folds = [7, 8], ", "", "{fold} in a path needs folds"),
        ("folds = [7, 8]", "folds = [7, 7]", "folds has a seed twice"),
        ("folds = [7, 8]", "folds = [7, '8']", "folds: must be int"),
        ('"{x}-{y}"', '"{x}{y}"', "two fields of text_pattern touch"),
        ('"{x}-{y}"', '"{x}-{z}"', "text_pattern: shows 'x', 'z', must show 'x', 'y'"),
        ('id = "o/n", ', "", "hub: no id"),
        ('test = "v"', 'validation = "v"', "splits needs train and test"),
        ('test = "v"', 'test = "t"', "splits takes one of them twice"),
        ('test = "v"', 'test = "v", validation = "w"', "with shots, validation is drawn"),
        ('columns = {x = "z"}', 'columns = {xx = "z"}', "hub, columns: unknown key 'xx'"),
        ("shots = 3", "shots = 0", "shots must be positive"),
        ('["a/one"]', '["a/one"]\nmembers = ["u"]', 'members belong to an entry named "NAME/'),
        ("[families]", '["a/one"]', "not valid TOML"),
    ],
)
def test_a_damaged_entry_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ENTRY
    with pytest.raises(DataError, match=re.escape(message)):
        one(tmp_path, ENTRY.replace(old, new, 1))


@pytest.mark.parametrize(
    ("columns", "style", "message"),
    [
        ("", 'choice_style = "text"', "multiple_choice needs columns.choices"),
        (', choices = "c"', "", "multiple_choice needs choice_style"),
        (', choices = "c"', 'choice_style = "x"', "must be one of letters, text, found 'x'"),
        (', choices = "c"', 'choice_style = "text"', None),
    ],
)
def test_multiple_choice_needs_choices(
    tmp_path: Path, columns: str, style: str, message: str | None
) -> None:
    text = ENTRY.replace('"classification"', '"multiple_choice"').replace(", shots = 3", "")
    text = text.replace('label = "l"', f'label = "l"{columns}')
    text = text.replace('label_words = {a = "A", b = "B"}', style)
    if message is None:
        benchmark = one(tmp_path, text)
        assert (benchmark.choices, benchmark.choice_style) == ("c", "text")
        return
    with pytest.raises(DataError, match=message):
        one(tmp_path, text)


def test_shots_need_labels(tmp_path: Path) -> None:
    text = ENTRY.replace('"classification"', '"generation"')
    text = text.replace('label_words = {a = "A", b = "B"}', "max_answer_tokens = 4")
    with pytest.raises(DataError, match="shots are drawn by label"):
        one(tmp_path, text)
    text = text.replace(", shots = 3", "").replace("tokens = 4", "tokens = 0")
    with pytest.raises(DataError, match="max_answer_tokens must be positive"):
        one(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["a/*"]\ntitle = "x"\n', 'a "NAME/*" needs a list of members'),
        ('["a/*"]\nmembers = [1]\n', 'a "NAME/*" needs a list of members'),
        ('["a/*"]\nmembers = ["one", "one"]\n', "the name a/one is taken"),
        ('["a/one"]\ntitle = "x"\n', "the name a/one is taken"),
    ],
)
def test_names_are_clear(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(ENTRY, encoding="utf-8")
    (tmp_path / "b.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        read_catalogue(tmp_path)


def test_a_name_is_one_word_or_two(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text(ENTRY.replace("a/one", "a/b/one"), encoding="utf-8")
    with pytest.raises(DataError, match="'a/b/one' is no name"):
        find_benchmark("a/b/one", read_catalogue(tmp_path))


@pytest.mark.parametrize("title", ['"b/*" = "All of b"', ""])
def test_families_and_titles_match(tmp_path: Path, title: str) -> None:
    text = ENTRY.replace('"a/*" = "All of a"', title)
    (tmp_path / "some.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="a title without a family"):
        families(read_catalogue(tmp_path))
