"""Checks of chapter 10."""

import math

import torch
from torch import Tensor

from exercises import Function, Wrong, exercise, expect, same


@exercise
def merged(answer: Function) -> None:
    tokens = ["b", "a", "n", "a", "n", "a", "s"]

    def tried(tokens: list[str], pair: tuple[str, str]) -> list[str]:
        given = list(tokens)
        got = answer(given, pair)
        if got is ...:
            raise Wrong("the stub is still empty; replace the ... by your code")
        if not isinstance(got, list | tuple):
            raise Wrong(f"it returned {type(got).__name__}, where a list of strings is due")
        if given != tokens:
            raise Wrong("it changed the list that it was given; make a new one")
        return list(got)

    got = tried(tokens, ("a", "n"))
    if got == ["b", "an", "a", "n", "a", "s"]:
        raise Wrong("only the first one was merged; the pair occurs twice")
    if got == [*tokens, "an"]:
        raise Wrong("the new token belongs in the place of the pair")
    if got != ["b", "an", "an", "a", "s"]:
        raise Wrong(f"merging a and n in {tokens} gives ['b', 'an', 'an', 'a', 's'], and yours gives {got}")
    if tried(["a", "a", "a"], ("a", "a")) != ["aa", "a"]:
        raise Wrong("in a, a, a the first two merge, and the third has no partner left: ['aa', 'a']")
    if tried(["x", "an"], ("a", "n")) != ["x", "an"]:
        raise Wrong("where the pair does not occur, the list stays as it is")
    if tried(["x", "yz"], ("xy", "z")) != ["x", "yz"]:
        raise Wrong("the two tokens must be these, not only spell the same together")
    if tried([], ("a", "n")) != []:
        raise Wrong("of no tokens there are none")


@exercise
def causal_weights(answer: Function) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 5, generator=generator)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    truth = torch.softmax(scores.masked_fill(later, -torch.inf), dim=1)
    got = answer(scores.clone())
    plain = torch.softmax(scores, dim=1)
    wrong = [
        (plain, "there is no mask yet: each token sees those after it, too"),
        (plain.tril(), "the rows no longer sum to 1: mask the scores before the softmax, not the weights after it"),
        (torch.softmax(scores.tril(), dim=1), "a score of 0 is no mask, for exp(0) is 1; put minus infinity there"),
        (torch.softmax(scores.masked_fill(later.T, -torch.inf), dim=1), "the wrong half: that sees what comes later"),
        (torch.softmax(scores.masked_fill(later, -torch.inf), dim=0), "the softmax is over the columns j of each row"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "put minus infinity where j > i, then take the softmax of each row")
    large = torch.tensor([[200.0, 0.0, 0.0], [200.0, -200.0, 0.0], [-200.0, -200.0, 200.0]])
    masked = torch.softmax(large.masked_fill(later[:3, :3], -torch.inf), dim=1)
    expect(answer(large.clone()), masked, "right for small scores, but not for large ones: exp of them overflows")


@exercise
def least_loss(answer: Function) -> None:
    copies = torch.tensor([1, 3, 3, 3, 2, 2])
    truth = copies.double().log().mean()
    got = answer(copies.clone())
    wrong: list[tuple[Tensor | float, str]] = [
        (copies.double().mean().log(), "that is the logarithm of the mean; each pair has its own loss, then average"),
        (copies.double().log().sum(), "that is the sum; the mean is due"),
        (copies.double().log2().mean(), "that is in bits; the loss has the natural logarithm"),
        (0.0, "copies cannot be told apart, so the right one gets at best a share of the probability"),
        (math.log(len(copies)), "that is the loss of one who knows nothing"),
        (-truth, "the loss is minus the logarithm of a probability, so it is not negative"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "with k copies, the right one of them gets at best the probability 1/k")
    expect(answer(torch.ones(4, dtype=torch.long)), 0.0, "right for one case, but without copies the loss can be 0")


@exercise
def look_at_words(answer: Function) -> None:
    generator = torch.Generator().manual_seed(1)
    places, words = torch.randn(4, 6, generator=generator), torch.randn(5, 3, generator=generator)
    w_q = torch.randn(6, 2, generator=generator)
    w_k, w_v = torch.randn(2, 3, 2, generator=generator)
    q, k, v = places @ w_q, words @ w_k, words @ w_v
    root = math.sqrt(2)
    truth = torch.softmax(q @ k.T / root, dim=1) @ v
    got = answer(*(x.clone() for x in (places, words, w_q, w_k, w_v)))
    wrong = [
        (torch.softmax(q @ k.T, dim=1) @ v, "divide the scores by the root of d, the length of a query"),
        (torch.softmax(q @ k.T / 2, dim=1) @ v, "divide by the root of d, not by d"),
        (torch.softmax(q @ k.T / math.sqrt(6), dim=1) @ v, "the root is of d, the length of a query, not of a place"),
        (torch.softmax(q @ k.T / root, dim=0) @ v, "the softmax is over the words, for each place"),
        (torch.softmax(q @ k.T / root, dim=1) @ k, "the average is of the values, not of the keys"),
    ]
    for value, hint in wrong:
        if same(got, value):
            raise Wrong(hint)
    expect(got, truth, "softmax over the words of q k^T / sqrt(d), times the values")
    one = answer(places.clone(), words[:1].clone(), w_q, w_k, w_v)
    expect(one, v[:1].expand(4, 2), "right for five words, but with one word each place gets its value")
