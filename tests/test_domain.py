from __future__ import annotations

import pytest

from app.domain import Attributes, Completion, Message, Prompt, Weights
from tests.samples import FIVE

SYSTEM, ASKED, SAID = (
    Message("system", "Be brief."),
    Message("user", "One?"),
    Message("assistant", "1"),
)


def test_neighbours_of_one_role_are_joined() -> None:
    turns = Prompt((ASKED, Message("user", "Two?"), SAID, ASKED)).turns
    assert turns == (Message("user", "One?\n\nTwo?"), SAID, ASKED)


def test_system_text_is_apart_and_can_be_folded() -> None:
    prompt = Prompt((SYSTEM, ASKED, SAID, ASKED))
    assert prompt.system == "Be brief."
    assert prompt.turns_with_system_folded == (Message("user", "Be brief.\n\nOne?"), SAID, ASKED)
    assert Prompt((ASKED,)).turns_with_system_folded == (ASKED,)


@pytest.mark.parametrize("messages", [(), (SYSTEM,), (SAID,), (ASKED, SAID), (SAID, ASKED)])
def test_a_prompt_begins_and_ends_with_the_user(messages: tuple[Message, ...]) -> None:
    with pytest.raises(ValueError, match="user turn"):
        Prompt(messages)


def test_the_published_weights_give_the_published_reward() -> None:
    # 0.3, 0.74, 0.46, 0.47, -0.33: the model card of Nemotron-4-340B-Reward.
    by_hand = 0.3 * 3.1 + 0.74 * 3.2 + 0.46 * 3.7 + 0.47 * 1.4 - 0.33 * 1.2
    assert Weights().reward(FIVE) == pytest.approx(by_hand)
    assert Weights(0, 0, 0, 0, 1).reward(Attributes(9, 9, 9, 9, 2)) == 2
    assert Weights().magnitude == pytest.approx(2.30)


def test_a_refusal_is_withheld_and_a_cut_reply_is_not() -> None:
    assert Completion("", "refusal", "m").withheld
    assert not Completion("text", "length", "m").withheld
