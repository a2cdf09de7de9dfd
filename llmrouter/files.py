"""What is done to files in more than one room."""

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Have names that were made, moved or removed in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
