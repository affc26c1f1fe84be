"""A folder whose files are not those of its card is refused, in one sentence."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

import dst
from dst.core.errors import ModelError
from dst.models import pretrained
from dst.models.reference import neutral_nouns, reference_sentences
from dst.models.verify import file_hash, verify_files
from tests.models.test_load import saved


@pytest.fixture(scope="module")
def with_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved(tmp_path_factory.mktemp("model") / "small")
    names = ("model.safetensors", "config.json", "tokenizer.json")
    card = {"sha256": {name: file_hash(folder / name) for name in names}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def folder(with_card: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(with_card, tmp_path / "small"))


def test_the_hash_is_sha_256(tmp_path: Path) -> None:
    """Of "abc", as FIPS 180-4 gives it."""
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_a_whole_folder_is_loaded(folder: Path) -> None:
    assert verify_files(folder) == 3
    assert dst.load(folder, check=False).spec.n_layers == 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["truncated", "altered", "missing"])
def test_a_file_that_is_not_the_card_s_is_named(folder: Path, name: str, harm: str) -> None:
    path = folder / name
    content = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(content[:-1])
    elif harm == "altered":  # one bit
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    else:
        path.unlink()
    if harm == "missing" and name == "config.json":
        with pytest.raises(ModelError, match=r"has no config\.json"):
            dst.load(folder)
        return
    with pytest.raises(ModelError) as caught:
        dst.load(folder)
    said = str(caught.value)
    assert f"{path} " in said
    assert ("is missing" if harm == "missing" else "truncated or altered") in said
    assert "\n" not in said


def test_a_folder_without_sums_is_anybody_s(folder: Path) -> None:
    (folder / "card.json").write_text('{"name": "mine"}')
    assert verify_files(folder) == 0
    (folder / "card.json").unlink()
    assert verify_files(folder) == 0
    with pytest.raises(ModelError, match=r"card\.json is missing or lists no SHA-256"):
        verify_files(folder, needs_card=True)


def test_a_card_that_cannot_be_read_is_one_sentence(folder: Path) -> None:
    (folder / "card.json").write_text('{"sha256": {')
    with pytest.raises(ModelError, match=r"card\.json cannot be read .*; expected JSON"):
        dst.load(folder)


def test_a_card_names_no_file_elsewhere(folder: Path) -> None:
    (folder / "card.json").write_text(json.dumps({"sha256": {"../other": "00"}}))
    with pytest.raises(ModelError, match="expected files of its own folder"):
        verify_files(folder)


def test_the_embedded_model_is_compared_at_every_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(pretrained.embedded_path(), tmp_path / "embedded"))
    monkeypatch.setattr(pretrained, "embedded_path", lambda: copy)
    dst.load(check=False)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="truncated or altered"):
        dst.load()
    (copy / "model.safetensors").write_bytes(weights)
    (copy / "card.json").unlink()
    with pytest.raises(ModelError, match=r"card\.json is missing"):
        dst.load()


def test_comparing_the_embedded_model_takes_milliseconds() -> None:
    """3 ms on an idle processor; the fastest of some, because others use it too."""
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        assert verify_files(pretrained.embedded_path(), needs_card=True) >= 3
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.05


# -- names of the zoo


@pytest.fixture
def zoo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = folder.parent / "animals"
    place.mkdir()
    folder.rename(place / "small-0100")
    monkeypatch.setenv("DST_ZOO", str(place))
    monkeypatch.chdir(folder.parent)
    return place


def test_a_name_of_the_zoo_is_found_from_anywhere(zoo: Path) -> None:
    assert dst.load("zoo/small-0100", check=False).spec.name == "zoo/small-0100"
    (zoo / "small-0100" / "reference_sentences.txt").write_text("one .\ntwo .\n")
    (zoo / "small-0100" / "neutral_nouns.txt").write_text("hall\n")
    assert reference_sentences("zoo/small-0100") == ("one .", "two .")
    assert neutral_nouns("zoo/small-0100") == ("hall",)


def test_a_path_goes_first(zoo: Path) -> None:
    """A folder that is there is meant, whatever it is called."""
    mine = Path("zoo") / "small-0100"
    mine.mkdir(parents=True)
    with pytest.raises(ModelError, match=r"zoo/small-0100 has no config\.json"):
        dst.load("zoo/small-0100")


def test_an_unknown_name_of_the_zoo_is_one_sentence(zoo: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint 'small-0200'; expected such as small-0100"):
        dst.load("zoo/small-0200")


def test_without_a_zoo_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DST_ZOO", str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"There is no zoo in .*none .* dst testbed train"):
        dst.load("zoo/small-0100")
