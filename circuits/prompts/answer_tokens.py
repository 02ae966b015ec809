"""The token id of an answer: the token that follows the prompt when both are encoded as one text.

SentencePiece tokenizers (Llama 2, Mistral 0.1, TinyLlama) put a space before any text: `" Mary"` is two tokens alone, but one
after a prompt. An answer is therefore encoded after its prompt, and alone only if the two merge (`"17"` and `"00"` may become
`"1700"`).
"""

from collections.abc import Sequence

from circuits.prompts.pair import Encoder, Pair
from circuits.prompts.sequences import tokens_of


def continuation(model: Encoder, text: str, more: str) -> list[int] | None:
    """The tokens that `more` adds to `text`; None if the two merge."""
    head, whole = model.encode(text), model.encode(text + more)
    return whole[len(head) :] if whole[: len(head)] == head else None


def by_itself(model: Encoder, more: str) -> list[int]:
    """The tokens of `more` alone, without the space that some tokenizers put before any text."""
    plain = _alone(model, more)
    after = continuation(model, "\n", more) if _puts_a_space_first(model) else None
    return plain if after is None else after


def answer_tokens(model: Encoder, prompt: str | None, answer: str) -> list[int]:
    """The tokens of an answer after a prompt, or of the answer alone if only that is one token.

    Args:
        model: a model with a tokenizer.
        prompt: the text before the answer; None: unknown.
        answer: the answer, with its leading space if it has one.
    """
    follows = None if prompt is None else continuation(model, prompt, answer)
    if follows is not None and len(follows) == 1:
        return follows
    plain = _alone(model, answer)
    return next((ids for ids in (by_itself(model, answer), plain) if len(ids) == 1), follows or plain)


def _alone(model: Encoder, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def is_unknown(model: Encoder, token: int, answer: str) -> bool:
    """Whether this is the tokenizer's unknown token."""
    mark = getattr(model.tokenizer, "unk_token", None)
    return mark is not None and token == model.tokenizer.unk_token_id and answer.strip() != str(mark)


def written(model: Encoder, tokens: Sequence[int]) -> str | None:
    """The tokens as text, without BOS; None if the text does not encode back to these tokens."""
    if not tokens or max(tokens) >= model.d_vocab:
        return None
    text = decoded(model, tokens)
    return text if text and model.encode(text) == list(tokens) else None


def spaced(model: Encoder, pair: Pair) -> str | None:
    """The pair's first answer with a leading space, if it has no space and would then be a different single token."""
    first = pair.answers[0]
    return _spaced(model, pair, first) if isinstance(first, int) else None


def spaced_distractor(model: Encoder, pair: Pair) -> str | None:
    """A distractor with a leading space, if the answer has one and the word would then be a different single token."""
    bare = [token for token in pair.distractors if isinstance(token, int) and not _is_marked(model, token)]
    if not bare or spaced(model, pair) is not None or not _has_space(model, pair, tokens_of(pair.answers[0])[0]):
        return None
    words = (_spaced(model, pair, distractor) for distractor in bare)
    return next((word for word in words if word is not None and len(word) > 2 and word.strip().isalpha()), None)


def _is_marked(model: Encoder, token: int) -> bool:
    """Whether the token begins with the tokenizer's mark for a space."""
    named = getattr(model.tokenizer, "convert_ids_to_tokens", None)
    return named is not None and str(named(token)).startswith(("Ġ", "▁"))


def _has_space(model: Encoder, pair: Pair, answer: int) -> bool:
    prompt = pair.clean[: pair.position + 1]
    text, whole = written(model, prompt), decoded(model, (*prompt, answer))
    return text is not None and whole.startswith(text) and whole[len(text) :][:1].isspace()


def _spaced(model: Encoder, pair: Pair, answer: int) -> str | None:
    prompt = pair.clean[: pair.position + 1]
    text = written(model, prompt)
    if text is None:
        return None
    whole = decoded(model, (*prompt, answer))
    word = whole[len(text) :] if whole.startswith(text) else ""
    if not word or word[0].isspace() or text[-1].isspace():
        return None
    follows = continuation(model, text, f" {word}")
    known = follows is not None and len(follows) == 1 and not is_unknown(model, follows[0], word)
    return f" {word}" if known and follows != [answer] else None


def decoded(model: Encoder, tokens: Sequence[int]) -> str:
    """The tokens as text, without BOS."""
    start = 1 if tokens[0] == getattr(model.tokenizer, "bos_token_id", None) else 0
    return model.tokenizer.decode(list(tokens[start:]))


def _puts_a_space_first(model: Encoder) -> bool:
    """Whether a word alone has the same token as the word after a space."""
    one, two = (_alone(model, text) for text in ("a", "a a"))
    return two == one * 2
