from __future__ import annotations

import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.settings import EmbeddedSpec, LocalSpec, Settings
from app.star.member import embedded_member_row, member_row


def test_the_row_is_taken_as_it_is_printed() -> None:
    row = member_row("mine", "smollm2-135m-instruct", Path("/runs/a/iteration-2/adapter"))
    assert row == (
        '[members."mine"]\n'
        'provider = "local"\n'
        'model = "smollm2-135m-instruct"\n'
        'adapter = "/runs/a/iteration-2/adapter"\n'
    )
    Path("starboard.toml").write_text(row)
    settings = Settings()
    seat = next(seat for seat in settings.seats if seat.name == "mine")
    assert isinstance(seat.spec, LocalSpec)
    assert (seat.why_not, seat.spec.adapter) == (None, Path("/runs/a/iteration-2/adapter"))
    assert seat.model == "smollm2-135m-instruct + iteration-2/adapter"
    assert seat.terms == "Apache-2.0"


def test_the_row_of_an_exported_adapter_is_taken_too() -> None:
    row = embedded_member_row("mine", "smollm2-135m-instruct", Path("/runs/a/adapter.gguf"))
    Path("starboard.toml").write_text(row)
    seat = next(seat for seat in Settings().seats if seat.name == "mine")
    assert isinstance(seat.spec, EmbeddedSpec)
    assert seat.spec.adapter == Path("/runs/a/adapter.gguf")
    assert seat.model == "smollm2-135m-instruct + a/adapter.gguf"


def test_folders_are_written_out_in_full(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()  # the working directory of every test
    row = tomllib.loads(member_row("m", "base", Path("run/adapter")))["members"]["m"]
    assert row["model"] == str(tmp_path / "base")
    assert row["adapter"] == str(tmp_path / "run" / "adapter")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
)
def test_any_name_and_path_survives(name: str, path: str) -> None:
    document = tomllib.loads(member_row(name, "base", Path("/", path)))
    assert document["members"][name]["adapter"] == str(Path("/", path))
