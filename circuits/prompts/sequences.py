"""Answers of several tokens, and the tokens that are appended to a prompt to score them.

An answer is a token id or, if it has several tokens, a tuple of ids. Its probability after a prompt is a product,

    p(answer) = Π_i p(answer_i | prompt + answer_0 … answer_{i-1}),

so all tokens of the answer but the last are appended to the prompt (teacher forcing), and logits are read at the prompt's last token and
at each of these. One row of tokens serves all answers that begin alike: (5, 6), 7 and 5 need the row prompt + 5 only. The corrupted
prompt gets the same rows. `circuits.prompts.rows` makes the rows of a batch.
"""

from collections.abc import Sequence

TokenIds = tuple[int, ...]
Answer = int | TokenIds
"""A token id, or the ids of an answer of several tokens."""
ONE_TOKEN_METRICS = ("logit_difference",)
"""Metrics that are not defined for answers of several tokens; the flags of `circuits.question.metrics` say the same."""
WAYS_OUT = (
    "measure log_probability, log_probability_difference, probability, probability_difference or cross_entropy instead (metric=…, "
    "--metric), or keep only the first token of each answer (first_token=True, --first-token)"
)


def tokens_of(answer: Answer) -> TokenIds:
    """The answer's tokens.

    >>> tokens_of(5), tokens_of((5, 6))
    ((5,), (5, 6))
    """
    return (answer,) if isinstance(answer, int) else answer


def answer_of(tokens: Sequence[int]) -> Answer:
    """Tokens as an answer: one token is its id."""
    return tokens[0] if len(tokens) == 1 else tuple(tokens)


def first_tokens(answers: Sequence[Answer]) -> TokenIds:
    """The first token of each answer, each once and in order."""
    return tuple(dict.fromkeys(tokens_of(answer)[0] for answer in answers))


def n_forced(answers: Sequence[Answer]) -> int:
    """How many tokens of the longest answer are appended to the prompt."""
    return max((len(answer) - 1 for answer in answers if not isinstance(answer, int)), default=0)


def contexts(answers: Sequence[Answer]) -> list[TokenIds]:
    """What stands behind the prompt where a token of these answers is read, each once: the answers' beginnings.

    >>> contexts([(5, 6, 7), (5, 8), 9])
    [(), (5,), (5, 6)]
    """
    return list(dict.fromkeys(answer[:i] for answer in map(tokens_of, answers) for i in range(len(answer))))


def rows(answers: Sequence[Answer]) -> list[TokenIds]:
    """The tokens behind the prompt in each row: the contexts that begin no longer one.

    >>> rows([(5, 6, 7), (5, 8), 9]), rows([(5, 6), (8, 6)]), rows([5, 6])
    ([(5, 6)], [(5,), (8,)], [()])
    """
    known = contexts(answers)
    continued = {context[:-1] for context in known if context}
    return [row for row in known if row not in continued]
