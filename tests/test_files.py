from pathlib import Path

import pytest

from llmrouter.files import sync_directory


def test_a_directory_is_made_durable(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("x")
    sync_directory(tmp_path)


def test_only_a_directory_can_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(NotADirectoryError):
        sync_directory(file)
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "gone")
