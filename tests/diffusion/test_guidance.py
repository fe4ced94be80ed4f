"""Classifier-free guidance as a wrapper: what it asks of the denoiser, and how often."""

import pytest
import torch

from fromnoise.diffusion.guidance import AutoguidedDenoiser, GuidedDenoiser, rescale_guided
from fromnoise.diffusion.schedules import Schedule, linear_betas

NULL = 10


class Recorder:
    """A denoiser that answers x + label, sample by sample, and remembers what it was asked."""

    schedule = Schedule(linear_betas())

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, label, **condition):
        self.calls.append((x, t, label, condition))
        return x + label[:, None]


X, T, LABEL = torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([900.0, 40.0, 1.0]), torch.tensor([3, 1, 4])


@pytest.mark.parametrize(("scale", "expected"), [(0.0, [10, 10, 10]), (1.0, [3, 1, 4]), (2.0, [-4, -8, -2])])
def test_scales(scale, expected):
    """0 ignores the condition, 1 is conditional, and 2 goes as far again beyond; each with one evaluation."""
    recorder = Recorder()
    guided = GuidedDenoiser(recorder, scale, {"label": torch.tensor(NULL)})
    assert torch.equal(guided(X, T, label=LABEL), X + torch.tensor(expected)[:, None])
    assert len(recorder.calls) == 1
    assert guided.schedule is recorder.schedule
    assert len(recorder.calls[0][0]) == (6 if scale == 2 else 3)


def test_batch_order():
    """The unconditional half comes first; both have the same x and t, and the null is in its own half alone."""
    recorder = Recorder()
    GuidedDenoiser(recorder, 3.0, {"label": torch.tensor(float(NULL))})(X, T, label=LABEL)
    ((x, t, label, _),) = recorder.calls
    assert torch.equal(x, torch.cat([X, X]))
    assert torch.equal(t, torch.cat([T, T]))
    assert label.tolist() == [NULL, NULL, NULL, 3, 1, 4]
    assert label.dtype == LABEL.dtype


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_other_conditions_stay(scale):
    """A condition without a null is the same in both halves, and one with a tensor for a null takes that tensor."""
    recorder, mask = Recorder(), torch.tensor([[1.0], [2.0], [3.0]])
    prompt, empty = torch.ones(3, 2, 4), torch.zeros(2, 4)
    guided = GuidedDenoiser(recorder, scale, {"label": torch.tensor(NULL), "prompt": empty})
    guided(X, T, label=LABEL, mask=mask, prompt=prompt)
    ((_, _, label, condition),) = recorder.calls
    halves = {0.0: [True], 1.0: [False], 2.0: [True, False]}[scale]  # whether each half is unconditional
    assert torch.equal(condition["mask"], torch.cat([mask for _ in halves]))
    assert torch.equal(condition["prompt"], torch.cat([empty.expand(3, 2, 4) if null else prompt for null in halves]))
    assert label.tolist() == [n for null in halves for n in ([NULL] * 3 if null else LABEL.tolist())]


def test_scales_are_consistent():
    """The short cuts at 0 and 1 give what the formula would: the answer is affine in the scale."""
    scales = (0.0, 1.0, 0.5, -1.0, 7.5)
    at = {s: GuidedDenoiser(Recorder(), s, {"label": torch.tensor(NULL)})(X, T, label=LABEL) for s in scales}
    for scale, answer in at.items():
        torch.testing.assert_close(answer, at[0.0] + scale * (at[1.0] - at[0.0]))


def levels(*values):
    """The noise levels, as times of the recorder's schedule."""
    return Recorder.schedule.time(torch.tensor(values))


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_outside_the_interval_it_is_conditional(scale):
    """Sample by sample, with one evaluation; the upper end belongs to the interval, the lower does not."""
    x, label = torch.zeros(4, 1), torch.full((4,), 3)
    t = levels(0.1, 0.5, 2.0, 9.0)
    low, middle, high, _ = Recorder.schedule.noise_to_signal(t).tolist()
    for interval, inside in (((low, high), [0, 1, 1, 0]), ((0.0, middle), [1, 1, 0, 0]), ((high, 99.0), [0, 0, 0, 1])):
        recorder = Recorder()
        answer = GuidedDenoiser(recorder, scale, {"label": torch.tensor(NULL)}, interval=interval)(x, t, label=label)
        assert answer[:, 0].tolist() == [NULL + scale * (3 - NULL) if guided else 3 for guided in inside]
        assert [len(call[0]) for call in recorder.calls] == [8]


def test_outside_the_interval_it_costs_one_evaluation_of_half_the_size():
    recorder = Recorder()
    guided = GuidedDenoiser(recorder, 5.0, {"label": torch.tensor(NULL)}, interval=(0.2, 3.0), rescale=0.7)
    x = torch.linspace(-1, 1, 12).view(3, 4) ** 3
    for level, rows in ((0.1, 3), (1.0, 6), (10.0, 3)):
        answer = guided(x, levels(level, level, level), label=LABEL)
        assert len(recorder.calls.pop()[0]) == rows
        assert torch.equal(answer, x + LABEL[:, None]) == (rows == 3)


class Affine(Recorder):
    """A denoiser that answers with an image whose contrast and brightness are the label's."""

    def __call__(self, x, t, label, **condition):
        super().__call__(x, t, label, **condition)
        return label[:, None] * (x + 1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_rescaled(scale):
    """At 1 each sample has the contrast of its conditional prediction, also at scale 0, where both are asked; at .25 a
    quarter of the way; at guidance scale 1 it changes nothing.
    """
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    plain, quarter, full = (
        GuidedDenoiser(Affine(), scale, {"label": torch.tensor(NULL)}, rescale=share)(x, T, label=LABEL)
        for share in (0.0, 0.25, 1.0)
    )
    conditional = Affine()(x, T, label=LABEL)
    torch.testing.assert_close(full.std(1), conditional.std(1))
    torch.testing.assert_close(quarter, 0.75 * plain + 0.25 * full)
    torch.testing.assert_close(full / full.std(1, keepdim=True), plain / plain.std(1, keepdim=True))
    if scale == 1:
        assert torch.equal(full, conditional)


def recorders():
    """A good denoiser, which adds the label, and a worse one, which adds twice the label."""

    class Worse(Recorder):
        def __call__(self, x, t, label, **condition):
            return super().__call__(x, t, 2 * label, **condition)

    return Recorder(), Worse()


@pytest.mark.parametrize(("scale", "labels", "asked"), [(0.0, 2, (0, 1)), (1.0, 1, (1, 0)), (3.0, -1, (1, 1))])
def test_autoguidance(scale, labels, asked):
    """0 is the worse one, 1 the good one, and beyond it goes on in that direction; nobody is asked in vain."""
    good, worse = recorders()
    guided = AutoguidedDenoiser(good, worse, scale)
    assert torch.equal(guided(X, T, label=LABEL), X + labels * LABEL[:, None])
    assert (len(good.calls), len(worse.calls)) == asked
    assert guided.schedule is good.schedule


def test_autoguidance_in_an_interval_and_rescaled():
    """The times 900, 40 and 1 have noise levels far above, just below and far below 1; only the middle is guided."""
    good, worse = recorders()
    levels = good.schedule.noise_to_signal(T)
    inside = AutoguidedDenoiser(good, worse, 3.0, interval=(float(levels[2]), float(levels[1])))
    assert torch.equal(inside(X, T, label=LABEL), X + torch.tensor([[3.0], [-1.0], [4.0]]))
    pairs, labels = torch.tensor([[1.0, -2.0, 0.0], [0.5, 4.0, 1.0]]), torch.tensor([3, 1])
    rescaled = AutoguidedDenoiser(good, worse, 3.0, rescale=1.0)(pairs, T[:2], label=labels)
    assert torch.equal(rescaled, rescale_guided(pairs - labels[:, None], pairs + labels[:, None], 1.0))
