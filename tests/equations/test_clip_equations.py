"""How pictures and captions are told apart: equation infonce."""

import math

import torch
import torch.nn.functional as F
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from fromnoise.nn.clip import infonce

F64 = torch.float64


def test_infonce(generator):
    """It is the mean of the cross-entropies of both directions, and transformers' loss of a CLIP."""
    similarity = 5 * torch.randn(7, 7, generator=generator, dtype=F64)
    found, own = infonce(similarity), torch.arange(7)
    captions = F.cross_entropy(similarity, own, reduction="none")
    pictures = F.cross_entropy(similarity.T, own, reduction="none")
    torch.testing.assert_close(found, (captions + pictures) / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.mean(), image_text_contrastive_loss(similarity), rtol=1e-12, atol=0)


def test_infonce__by_hand():
    """Of two pairs: picture 0 fits both captions alike, picture 1 fits its own twice as well as the other."""
    found = infonce(torch.tensor([[0.0, 0.0], [0.0, math.log(2)]], dtype=F64))
    expected = [(math.log(2) + math.log(2)) / 2, math.log(3 / 2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=F64))


def test_infonce__knowing_nothing_is_log_b():
    for batch in (1, 2, 256):
        found = infonce(torch.full((batch, batch), 3.0, dtype=F64))
        torch.testing.assert_close(found, torch.full((batch,), math.log(batch), dtype=F64))


def test_infonce__being_sure_is_0(generator):
    """And what is added to all similarities changes nothing."""
    similarity = torch.randn(5, 5, generator=generator, dtype=F64)
    assert infonce(similarity + 100 * torch.eye(5, dtype=F64)).max() < 1e-12
    torch.testing.assert_close(infonce(similarity + 7), infonce(similarity))
