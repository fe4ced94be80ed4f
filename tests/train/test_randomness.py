"""What is drawn in training depends on the seed, the step and the place in the batch, and on nothing else."""

import torch

from fromnoise.train.randomness import batch_indices, generator_for, shuffled, step_draws

SHAPE = (16, 1, 4, 4)
MIXED = "uniform-and-logit-normal"


def test_a_step_draws_the_same_whenever_it_is_asked():
    first = step_draws(3, 7, SHAPE, 1000)
    torch.manual_seed(99)
    step_draws(3, 6, SHAPE, 1000)
    again = step_draws(3, 7, SHAPE, 1000)
    for name in ("t", "noise", "drop", "flip"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_steps_and_seeds_draw_differently():
    base = step_draws(0, 0, SHAPE, 1000)
    for other in (step_draws(0, 1, SHAPE, 1000), step_draws(1, 0, SHAPE, 1000)):
        assert not torch.equal(base.noise, other.noise)
        assert not torch.equal(base.t, other.t)
        assert not torch.equal(base.drop, other.drop)


def test_no_two_streams_are_the_same():
    seen = {torch.rand(1, generator=generator_for(*key)).item() for key in [(0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (1,)]}
    assert len(seen) == 5


def test_times_cover_all_of_1_to_T_evenly():
    t = torch.cat([step_draws(0, step, SHAPE, 40).t for step in range(2000)])
    counts = torch.bincount(t.long(), minlength=41)
    assert counts[0] == 0
    assert len(counts) == 41
    assert t.equal(t.round())
    assert counts[1:].float().sub(800).abs().max() < 120  # 4 sigma of a binomial would be 112


def test_half_of_the_times_may_be_drawn_from_a_logit_normal_law():
    """Every other time stays where it was; of the rest, 90 % lie between two of the law's quantiles, as they should."""
    for step in range(50):
        even, mixed = step_draws(0, step, SHAPE, 1000).t, step_draws(0, step, SHAPE, 1000, MIXED).t
        assert mixed[::2].equal(even[::2])
    moved = torch.cat([step_draws(0, step, SHAPE, 1000, MIXED).t[1::2] for step in range(2000)])
    assert moved.equal(moved.round())
    assert 1 <= moved.min() < moved.max() <= 1000
    low, high = 1000 * torch.sigmoid(0.6 + 0.8 * torch.tensor([-1.6449, 1.6449]))
    inside = (moved > low) & (moved <= high)
    assert abs(inside.double().mean() - 0.9) < 0.01


def test_draws_have_the_distributions_they_claim():
    draws = [step_draws(0, step, (64, 1, 8, 8), 1000) for step in range(200)]
    noise = torch.cat([d.noise for d in draws]).flatten()
    drop = torch.cat([d.drop for d in draws])
    flip = torch.cat([d.flip for d in draws]).float()
    assert abs(noise.mean()) < 4 / len(noise) ** 0.5
    assert abs(noise.var() - 1) < 4 * (2 / len(noise)) ** 0.5
    assert abs((drop < 0.1).float().mean() - 0.1) < 4 * (0.09 / len(drop)) ** 0.5
    assert abs(flip.mean() - 0.5) < 4 * 0.5 / len(flip) ** 0.5


def test_every_image_comes_once_an_epoch_in_a_new_order():
    count, batch = 50, 8
    stream = torch.cat([batch_indices(0, step, batch, count) for step in range(50)])
    epochs = stream[: count * 8].view(8, count)
    assert epochs.sort(dim=1).values.equal(torch.arange(count).expand(8, count))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 8


def test_a_batch_may_span_epochs():
    stream = torch.cat([batch_indices(5, step, 7, 3) for step in range(6)])
    assert stream.view(-1, 3).sort(dim=1).values.equal(torch.arange(3).expand(14, 3))


def test_shards_come_one_after_the_other_in_a_new_order_each_epoch():
    sizes = (5, 1, 9, 6)
    parts = torch.arange(21).split(sizes)
    stream = torch.cat([batch_indices(3, step, 7, 21, sizes) for step in range(3 * 40)])
    orders, within = set(), set()
    for epoch in stream.view(40, 21):
        of_shard = torch.bucketize(epoch, torch.tensor([5, 6, 15]), right=True)
        order = of_shard.unique_consecutive().tolist()
        assert sorted(order) == [0, 1, 2, 3], "a shard is gone back to"
        orders.add(tuple(order))
        for shard, drawn in zip(order, epoch.split([sizes[shard] for shard in order]), strict=True):
            assert drawn.sort().values.equal(parts[shard])
            within.add((shard, tuple(drawn.tolist())))
    assert len(orders) > 15, "of 24 orders of the shards"
    assert sum(shard == 2 for shard, _ in within) == 40, "rows come in the same order twice"


def test_what_is_one_shard_has_the_order_of_what_is_in_none():
    for count in (1, 2, 50):
        orders = [shuffled(count, shards, torch.Generator().manual_seed(7)) for shards in ((), (count,))]
        assert orders[0].equal(orders[1]) and orders[0].equal(
            torch.randperm(count, generator=torch.Generator().manual_seed(7))
        )
