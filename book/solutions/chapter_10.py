"""Solutions of chapter 10."""

import torch


def merged(tokens, pair):
    # From the left: where the pair stands, the new token is written and both are passed.
    found, place = [], 0
    while place < len(tokens):
        if tuple(tokens[place : place + 2]) == tuple(pair):
            found.append(pair[0] + pair[1])
            place += 2
        else:
            found.append(tokens[place])
            place += 1
    return found


def causal_weights(scores):
    # Minus infinity becomes 0 in the softmax, and the rest of the row sums to 1.
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(later, -torch.inf), dim=-1)


def least_loss(copies):
    # k copies look the same, so the right one gets at best the probability 1/k, and its loss is ln k.
    return copies.double().log().mean()


def look_at_words(places, words, w_q, w_k, w_v):
    # Queries of the places, keys and values of the words; the softmax is over the words.
    queries, keys, values = places @ w_q, words @ w_k, words @ w_v
    return torch.softmax(queries @ keys.T / queries.shape[1] ** 0.5, dim=1) @ values
