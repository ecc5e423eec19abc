"""`GET` and `DELETE /answers`, `DELETE /answers/{id}`, `GET /export`: what is stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from app import export
from app.api.documents import AnswerId, SummariesDocument, Text, summary_document
from app.api.problems import responses
from app.api.security import MayRead, needs
from app.api.services import Live
from app.domain import Quality
from app.errors import ForbiddenError
from app.store import Filter
from app.store.keys import ID_PREFIX

router = APIRouter(tags=["stored answers"])

JSON_LINES = "application/jsonl"

TagFilter = Annotated[
    str,
    StringConstraints(pattern=r"^[^:=\x00]*:[^\x00]*$", max_length=577),
    Field(examples=["user:u1"]),
]
RFC_3339 = (
    r"^(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)


def _rfc_3339(value: object) -> object:
    """What pydantic takes is wider: seconds since 1970, times without seconds, ..."""
    if isinstance(value, str) and not re.match(RFC_3339, value):
        raise ValueError("must be a time with an offset, as RFC 3339 has it")
    return value


Moment = Annotated[
    AwareDatetime, BeforeValidator(_rfc_3339), Field(json_schema_extra={"pattern": RFC_3339})
]
# 63 bits in base64url.
Cursor = Annotated[str, StringConstraints(pattern=r"^[A-Za-f][A-Za-z0-9_-]{9}[048AEIMQUYcgkosw]$")]
TAGS = "`key:value`, parted by the first colon; an answer must have all that are given."

KeyId = Annotated[
    str,
    StringConstraints(pattern=rf"^{ID_PREFIX}[\w-]{{1,36}}$"),
    Field(examples=["key_0123456789abcdef"]),
]
KEY = "Id of the API key that asked."


class EraseQuery(BaseModel):
    """Which answers: at least one of `tag` and `key`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tag: list[TagFilter] = Field(default=[], max_length=16, description=TAGS)
    key: KeyId | None = Field(default=None, description=KEY)

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if not self.tag and self.key is None:
            raise ValueError("say which answers: a tag or a key")
        return self

    def to_filter(self) -> Filter:
        return Filter(tags=_tags(self.tag), key_id=self.key)


class ListQuery(BaseModel):
    """Which answers, and which page of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: (
        Annotated[
            str, StringConstraints(pattern=r"^[^\x00]*[\p{L}\p{N}][^\x00]*$", max_length=1000)
        ]
        | None
    ) = Field(
        default=None,
        description="Words that stand in the prompt or the chosen reply; phrases in quotes.",
    )
    member: Annotated[Text, StringConstraints(max_length=200)] | None = Field(
        default=None, description="Who wrote the chosen reply."
    )
    strategy: Annotated[Text, StringConstraints(max_length=32)] | None = None
    quality: Quality | None = None
    tag: list[TagFilter] = Field(default=[], max_length=16, description=TAGS)
    key: KeyId | None = Field(default=None, description=KEY)
    feedback: bool | None = Field(default=None, description="Whether anything was said of it.")
    since: Moment | None = None
    until: Moment | None = Field(default=None, description="Exclusive.")
    limit: int = Field(default=20, ge=1, le=100)
    cursor: Cursor | None = Field(default=None, description="The `next` of a page.")

    def to_filter(self) -> Filter:
        plain = self.model_dump(exclude={"tag", "key", "limit", "cursor"})
        return Filter(tags=_tags(self.tag), key_id=self.key, **plain)


class ErasedDocument(BaseModel):
    erased: int = Field(description="How many answers there were.")


@router.get("/answers", responses=responses(401, 403, 422, 503))
async def list_answers(
    wanted: Annotated[ListQuery, Query()], live: Live, caller: MayRead
) -> SummariesDocument:
    """Stored answers, newest first: those that were asked with the key that lists them, or all if
    its scope is `admin` or no key is asked for."""
    filter_ = wanted.to_filter()
    if caller and not caller.may("admin"):
        if filter_.key_id not in (None, caller.id):
            raise ForbiddenError("without the scope admin a key lists its own answers only")
        filter_ = replace(filter_, key_id=caller.id)
    page, cursor = await live.store.newest(filter_, limit=wanted.limit, cursor=wanted.cursor)
    return SummariesDocument(answers=list(map(summary_document, page)), next=cursor)


@router.delete(
    "/answers", responses=responses(401, 403, 422, 503), dependencies=[Depends(needs("admin"))]
)
async def erase_answers(wanted: Annotated[EraseQuery, Query()], live: Live) -> ErasedDocument:
    """Erase the answers with all these tags and of this API key, with candidates, feedback and what
    they are found by."""
    return ErasedDocument(erased=await live.store.erase_all(wanted.to_filter()))


@router.delete(
    "/answers/{id}",
    status_code=204,
    responses=responses(401, 403, 404, 422, 503),
    dependencies=[Depends(needs("admin"))],
)
async def erase_answer(answer_id: AnswerId, live: Live) -> None:
    """Erase an answer, with candidates, feedback and what it is found by."""
    await live.store.erase(answer_id)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {"content": {JSON_LINES: {"schema": {"type": "string"}}}},
        **responses(401, 403, 422, 503),
    },
    dependencies=[Depends(needs("admin"))],
)
async def export_rows(
    shape: Annotated[export.Format, Query(alias="format")],
    live: Live,
    key: Annotated[KeyId | None, Query(description=KEY)] = None,
) -> StreamingResponse:
    """All answers, or those of one API key, as rows to train from, as JSON lines, oldest first
    (docs/data.md). Only replies of members whose `trainable` is true."""
    await live.store.ping()  # what fails later can only break off the stream
    lines = export.lines(live.store.answers(key), shape, live.settings.trainable)
    return StreamingResponse(lines, media_type=JSON_LINES)


def _tags(written: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (tag.partition(":") for tag in written)]
