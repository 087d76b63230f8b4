import json
import logging
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from stableprompt.errors import DataError
from stableprompt.tasks.hub import HubName, HubTable, parse_hub_name, read_hub
from stableprompt.tasks.table import Row

NAMES = ("negative", "positive")


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, offline and with its cache in the test's folder."""
    library: Any = pytest.importorskip(
        "datasets", reason="datasets is not installed: pip install 'stableprompt[hub]'"
    )
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    return library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "reviews"
    path.mkdir()
    return path


def write_classes(
    datasets: Any, folder: Path, splits: Mapping[str, Sequence[int | None]], **others: object
) -> None:
    """One Parquet file a split: a sentence, and a label that is stored as a number of a class."""
    features = {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    for name in others:
        features[name] = datasets.Value("string")
    for split, labels in splits.items():
        rows = [
            {"sentence": f"{split} {i}", "label": label, **others} for i, label in enumerate(labels)
        ]
        data = datasets.Dataset.from_list(rows, features=datasets.Features(features))
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_csv(folder: Path, **splits: str) -> None:
    for split, lines in splits.items():
        (folder / f"{split}.csv").write_text(f"text,label\n{lines}\n", encoding="utf-8")


def write_configs(folder: Path, *configs: str) -> None:
    """A folder with several configurations, as its card says."""
    lines = [f"- config_name: {name}\n  data_files: {name}.csv" for name in configs]
    card = "---\nconfigs:\n" + "\n".join(lines) + "\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_csv(folder, **dict.fromkeys(configs, "a,b"))


def texts(table: HubTable, split: str) -> list[object]:
    return [row["sentence"] for row in table.rows if row["split"] == split]


def test_class_numbers_become_names_and_splits_a_column(datasets: Any, folder: Path) -> None:
    write_classes(datasets, folder, {"test": [0], "train": [0, 1], "validation": [1]})
    assert read_hub(str(folder)) == HubTable(
        (
            {"sentence": "train 0", "label": "negative", "split": "train"},
            {"sentence": "train 1", "label": "positive", "split": "train"},
            {"sentence": "validation 0", "label": "positive", "split": "validation"},
            {"sentence": "test 0", "label": "negative", "split": "test"},
        ),
        (),
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "text,label\ngood,1\nbad,0\n"),
        ("data.csv", "text,label\ngood,1\nbad,0\n"),
        ("test.jsonl", '{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n'),
        ("x.json", '[{"text": "good", "label": 1}, {"text": "bad", "label": 0}]'),
    ],
)
@pytest.mark.usefixtures("datasets")
def test_one_split_of_any_name_has_no_split_column(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    rows: tuple[Row, ...] = ({"text": "good", "label": 1}, {"text": "bad", "label": 0})
    assert read_hub(str(folder)) == HubTable(rows, ())


def test_the_only_split_is_taken_whatever_its_name(datasets: Any, folder: Path) -> None:
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += "  - split: held\n    path: held-*\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_classes(datasets, folder, {"held": [0]})
    assert read_hub(str(folder)).rows == ({"sentence": "held 0", "label": "negative"},)


def test_rows_without_a_label_are_left_out_and_counted(datasets: Any, folder: Path) -> None:
    write_classes(datasets, folder, {"train": [0, -1, 1, None], "test": [1, -1, 1]})
    table = read_hub(str(folder))
    assert texts(table, "train") == ["train 0", "train 2"]
    assert table.notes == (
        "2 of 4 rows of the split 'train' without 'label' (missing or secret) left out",
        "1 of 3 rows of the split 'test' without 'label' (missing or secret) left out",
    )


def test_validation_becomes_test_where_the_labels_of_test_are_secret(
    datasets: Any, folder: Path
) -> None:
    write_classes(datasets, folder, {"train": [0], "validation": [1, 0], "test": [-1, -1]})
    table = read_hub(str(folder))
    assert texts(table, "test") == ["validation 0", "validation 1"]
    assert {row["split"] for row in table.rows} == {"train", "test"}
    assert table.notes[-1] == "the split 'validation' is used as test"


def test_validation_becomes_test_where_there_is_no_test(datasets: Any, folder: Path) -> None:
    write_classes(datasets, folder, {"train": [0], "validation": [1]})
    table = read_hub(str(folder))
    assert texts(table, "test") == ["validation 0"]
    assert table.notes == ("the split 'validation' is used as test",)


def test_the_splits_can_be_named(datasets: Any, folder: Path) -> None:
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n" + "".join(
        f"  - split: {name}\n    path: {name}-*.parquet\n" for name in ("aux", "dev2", "held", "x")
    )
    (folder / "README.md").write_text(card + "---\n", encoding="utf-8")
    write_classes(datasets, folder, {"aux": [0], "dev2": [1], "held": [0], "x": [1]})
    table = read_hub(str(folder), splits={"test": "held", "train": "aux", "validation": "dev2"})
    assert [row["sentence"] for row in table.rows] == ["aux 0", "dev2 0", "held 0"]
    assert [row["split"] for row in table.rows] == ["train", "validation", "test"]
    assert table.notes == ("left out: the splits 'x'",)
    with pytest.raises(DataError, match=r"has the splits 'aux', 'dev2', 'held', 'x', to be used"):
        read_hub(str(folder))


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "nope"},
        {"train": "train", "test": "tset"},
        {"validation": "validation", "test": "test"},
        {"dev": "train"},
        {},
    ],
)
def test_splits_that_cannot_be_used_are_refused(
    datasets: Any, folder: Path, splits: dict[Any, str]
) -> None:
    write_classes(datasets, folder, {"train": [0], "validation": [1], "test": [0]})
    message = r"has the splits 'train', 'validation', 'test', .* as in splits={'train': 'train'}$"
    with pytest.raises(DataError, match=message):
        read_hub(str(folder), splits=splits)


def test_a_named_split_whose_labels_are_secret_is_refused(datasets: Any, folder: Path) -> None:
    write_classes(datasets, folder, {"train": [0], "validation": [1], "test": [-1]})
    with pytest.raises(DataError, match="no row with a label in the split 'test'; choose others"):
        read_hub(str(folder), splits={"train": "train", "test": "test"})


def test_train_without_labels_is_refused(datasets: Any, folder: Path) -> None:
    write_classes(datasets, folder, {"train": [-1], "test": [1]})
    with pytest.raises(DataError, match="no row with a label in the split 'train'"):
        read_hub(str(folder))


def test_only_the_label_decides_which_rows_are_left_out(datasets: Any, folder: Path) -> None:
    classes = datasets.ClassLabel(names=NAMES)
    features = datasets.Features(
        {"label": classes, "mood": classes, "note": datasets.Value("string")}
    )
    rows = [
        {"label": 0, "mood": -1, "note": "a"},
        {"label": 1, "mood": 1, "note": None},
        {"label": -1, "mood": 0, "note": "c"},
    ]
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")

    def notes_left(label: str | None) -> list[object]:
        return [row["note"] for row in read_hub(str(folder), label=label).rows]

    assert notes_left(None) == ["a", None]
    assert notes_left("mood") == [None, "c"]
    assert notes_left("note") == ["a", "c"]  # also of a column that is no class
    assert notes_left("no such column") == ["a", None]
    assert read_hub(str(folder)).rows[0]["mood"] is None


def test_an_own_column_split_gives_way(datasets: Any, folder: Path) -> None:
    write_classes(datasets, folder, {"train": [0], "test": [1]}, Split="fold 1")
    table = read_hub(str(folder))
    assert table.rows[0] == {"sentence": "train 0", "label": "negative", "split": "train"}
    assert table.notes == ("left out: the column 'Split', whose name says the split here",)


def test_what_save_to_disk_wrote_is_read(datasets: Any, folder: Path, tmp_path: Path) -> None:
    write_classes(datasets, folder, {"train": [0], "test": [1]})
    saved = datasets.load_dataset(str(folder))
    saved.save_to_disk(tmp_path / "all")
    saved["train"].save_to_disk(tmp_path / "one")
    assert read_hub(str(tmp_path / "all")) == read_hub(str(folder))
    assert [row["label"] for row in read_hub(str(tmp_path / "one")).rows] == ["negative"]


@pytest.mark.usefixtures("datasets")
def test_a_changed_folder_is_read_anew(folder: Path) -> None:
    write_csv(folder, train="a,b")
    assert read_hub(str(folder)).rows[0]["text"] == "a"
    write_csv(folder, train="changed,b")
    assert read_hub(str(folder)).rows[0]["text"] == "changed"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"needs a configuration: it has 'one', 'two'; give one as in hub:.*reviews:one$"),
        ("three", r"has no 'three': it has 'one', 'two'; give one as in hub:.*reviews:one$"),
    ],
)
@pytest.mark.usefixtures("datasets")
def test_a_configuration_must_exist(folder: Path, config: str | None, message: str) -> None:
    write_configs(folder, "one", "two")
    assert len(read_hub(str(folder), config="two").rows) == 1
    with pytest.raises(DataError, match=message):
        read_hub(str(folder), config=config)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "doesn't contain any data files"),
        ({"train.parquet": "no parquet"}, "Parquet magic bytes not found"),
        ({"train.jsonl": '{"a": 1}\n{no\n'}, "JSON parse error"),
        ({"train.jsonl": '{"a": 1}\n', "test.csv": "a\n1\n"}, "the same data file format"),
        ({"train.csv": "a\n1\n", "test.csv": "b\n1\n"}, "column names don't match"),
    ],
)
@pytest.mark.usefixtures("datasets")
def test_a_damaged_folder_is_refused_in_one_line(
    folder: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"cannot read .*reviews \(.*{message}") as caught:
        read_hub(str(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).endswith("check the files in this folder")


@pytest.mark.usefixtures("datasets")
def test_a_script_is_not_run(folder: Path) -> None:
    (folder / "reviews.py").write_text("raise SystemExit('I ran')", encoding="utf-8")
    with pytest.raises(DataError, match="a script of its own, which is not run; try the converted"):
        read_hub(str(folder))


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "two words", "", "a//b"])
def test_what_is_neither_folder_nor_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="is no folder and no name of a dataset on the hub"):
        read_hub(name)


def test_a_file_is_refused_with_the_other_way_to_read_it(folder: Path) -> None:
    write_csv(folder, train="a,b")
    with pytest.raises(DataError, match="a single file is given by its path, without hub:"):
        read_hub(str(folder / "train.csv"))


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="is a folder, without revisions; leave that out"):
        read_hub(str(folder), revision="main")


@pytest.mark.usefixtures("datasets")
def test_the_name_of_a_format_does_not_read_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(folder, train="a,b")
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="'csv' is a file format; give the path of a folder"):
        read_hub("csv")


def test_without_the_library_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'stableprompt\[hub\]'"):
        read_hub(str(folder))


# Without a network


def cache(datasets: Any, tmp_path: Path, config: str = "default") -> None:
    """Put into the cache what a download of org/reviews at commit c0ffee would leave there."""
    source = tmp_path / "reviews"
    source.mkdir(exist_ok=True)
    write_classes(datasets, source, {"train": [0, 1], "test": [1]})
    builder = datasets.load_dataset_builder(str(source), cache_dir=tmp_path / "elsewhere")
    builder.download_and_prepare()
    place = tmp_path / "cache" / "org___reviews" / config / "0.0.0" / "c0ffee"
    shutil.copytree(builder.cache_dir, place)
    info = json.loads((place / "dataset_info.json").read_text(encoding="utf-8"))
    (place / "dataset_info.json").write_text(
        json.dumps({**info, "config_name": config}), encoding="utf-8"
    )


@pytest.mark.usefixtures("datasets")
def test_a_name_that_is_not_in_the_cache_is_refused_offline() -> None:
    message = (
        "cannot read org/reviews at revision v1: the hub cannot be reached and it is not in the "
        "cache .*; check the connection and the name, or give a local folder"
    )
    with pytest.raises(DataError, match=message):
        read_hub("org/reviews", revision="v1")


@pytest.mark.parametrize("revision", [None, "c0ffee"])
def test_an_earlier_download_is_read_offline_with_a_note(
    datasets: Any, tmp_path: Path, revision: str | None
) -> None:
    cache(datasets, tmp_path)
    table = read_hub("org/reviews", revision=revision)
    assert texts(table, "train") == ["train 0", "train 1"]
    assert table.notes == ("the hub was not reached: read from the cache of an earlier download",)


def test_another_revision_than_the_one_asked_for_is_refused_offline(
    datasets: Any, tmp_path: Path
) -> None:
    cache(datasets, tmp_path)
    with pytest.raises(DataError, match=r"at revision v2: .*only another revision, c0ffee, is in"):
        read_hub("org/reviews", revision="v2")


def test_a_configuration_that_is_not_in_the_cache_is_refused_offline(
    datasets: Any, tmp_path: Path
) -> None:
    cache(datasets, tmp_path, "one")
    with pytest.raises(DataError, match=r"config 'two' Available configs in the cache: \['one'\]"):
        read_hub("org/reviews", config="two")


@pytest.fixture
def silent_hub(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("stableprompt.tasks.hub._PROBE_SECONDS", 0.2)
        yield


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_is_given_up_at_once(datasets: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(DataError, match="the hub cannot be reached"):
        read_hub("org/reviews")
    assert time.perf_counter() - start < 5  # datasets itself: more than 80
    assert datasets.config.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("silent_hub")
def test_a_folder_is_read_without_asking_the_hub(
    datasets: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(datasets, folder, {"train": [0], "test": [1]})
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("asked"))
    assert len(read_hub(str(folder)).rows) == 2


def answer(datasets: Any, monkeypatch: pytest.MonkeyPatch, result: object) -> list[object]:
    """Let the hub answer, and the builder be this or raise it; returns what it is asked for."""
    asked: list[object] = []

    def build(*args: object, **options: object) -> object:
        asked.extend([*args, options, datasets.config.HF_HUB_OFFLINE])
        if isinstance(result, Exception):
            raise result
        return result

    session = SimpleNamespace(head=lambda url, timeout: asked.append((url, timeout)))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    monkeypatch.setattr(datasets, "load_dataset_builder", build)
    return asked


def test_the_hub_is_asked_for_name_configuration_and_revision(
    datasets: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(datasets, folder, {"train": [0], "test": [1]})
    builder = datasets.load_dataset_builder(str(folder))
    asked = answer(datasets, monkeypatch, builder)
    table = read_hub("org/reviews", config="one", revision="v1")
    assert asked == [
        (datasets.config.HF_ENDPOINT, 5.0),
        "org/reviews",
        "one",
        {"revision": "v1"},
        False,
    ]
    assert len(table.rows) == 2
    assert table.notes == ()


def test_a_name_that_the_hub_does_not_know_is_refused(
    datasets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = datasets.exceptions.DatasetNotFoundError("Dataset 'org/x' doesn't exist\non the Hub")
    answer(datasets, monkeypatch, unknown)
    message = (
        r"^cannot read org/x \(Dataset 'org/x' doesn't exist on the Hub\); check its name at "
        r"https://huggingface.co/datasets \(if it is private: hf auth login\)$"
    )
    with pytest.raises(DataError, match=message):
        read_hub("org/x")


@pytest.mark.parametrize("fails", [False, True])
def test_it_is_quiet_and_leaves_the_settings_as_they_were(
    datasets: Any,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    write_csv(folder, train="a,b")
    if fails:
        (folder / "train.csv").rename(folder / "train.parquet")
    logger = logging.getLogger("datasets")
    logged: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: logged.append(record.getMessage()))
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    datasets.enable_progress_bars()
    try:
        read_hub(str(folder))
        assert not fails
    except DataError:
        assert fails
    assert capfd.readouterr() == ("", "")
    assert logged == []
    assert not datasets.are_progress_bars_disabled()
    assert logger.level == logging.INFO
    assert datasets.config.HF_HUB_OFFLINE is True


# The form on the command line


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hub:imdb", HubName("imdb", None, None)),
        ("hub:nyu-mll/glue:sst2", HubName("nyu-mll/glue", "sst2", None)),
        ("hub:nyu-mll/glue:sst2@main", HubName("nyu-mll/glue", "sst2", "main")),
        ("hub:a/b@refs/convert/parquet", HubName("a/b", None, "refs/convert/parquet")),
        ("hub:some/folder/there", HubName("some/folder/there", None, None)),
    ],
)
def test_the_parts_of_a_name(text: str, name: HubName) -> None:
    assert parse_hub_name(text) == name
    assert tuple(name) == (name.dataset, name.config, name.revision)


def test_a_folder_with_a_colon_or_an_at_sign_is_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a@b:c"
    path.mkdir()
    assert parse_hub_name(f"hub:{path}") == HubName(str(path))


@pytest.mark.parametrize(
    "text", ["nyu-mll/glue", "hub:", "hub:a:", "hub:a@", "hub:@main", "hub:a:@main", "", "."]
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="does not name a dataset: write hub:NAME, hub:NAME:CONFIG"):
        parse_hub_name(text)
