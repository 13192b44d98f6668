import os
from pathlib import Path

import pytest

from tests.consensus.transcript import rewrite

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_driver_answers_as_written(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    today = rewrite(written)
    if os.environ.get("UPDATE_TRANSCRIPTS") == "1":
        path.write_text(today, encoding="utf-8")
    else:
        assert today == written, "rewrite with UPDATE_TRANSCRIPTS=1 and read the difference"


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 10


def test_an_altered_answer_is_noticed() -> None:
    written = FILES[0].read_text(encoding="utf-8")
    altered = written.replace("    = height 1", "    = height 2", 1)
    assert altered != written
    assert rewrite(altered) == written
