"""The reader of JSON bodies against Python's, over anything."""

from __future__ import annotations

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from app.api.limits import strict_json
from app.errors import InvalidRequestError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Whole characters: those that UTF-8 has.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(values, st.booleans())
def test_all_json_is_read_as_it_stands(value: object, ascii_only: bool) -> None:
    assert strict_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_of_anything_else_it_says_so(body: bytes) -> None:
    """And never by another error."""
    with suppress(InvalidRequestError):
        assert strict_json(body) == json.loads(body)
