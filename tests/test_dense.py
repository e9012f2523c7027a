"""A label for each position, some of them without one: as in segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ltaug
from ltaug import metrics
from ltaug.methods import Method
from ltaug.mixers import Mixer

COUNTS = [50, 30, 20]
LOSSES: list[Callable[..., nn.Module]] = [
    lambda **more: ltaug.PriorCorrectedLoss(COUNTS, **more),
    lambda **more: ltaug.LADELoss(COUNTS, **more),
    lambda **more: ltaug.LabelAwareSmoothingLoss(COUNTS, **more),
    lambda **more: ltaug.LDAMLoss(COUNTS, **more),
    lambda **more: ltaug.FocalLoss(**more),
    lambda **more: ltaug.CDTLoss(COUNTS, **more),
    lambda **more: ltaug.ClassWeightedLoss(ltaug.FocalLoss(**more), [1.0, 2.0, 3.0]),
    lambda **more: ltaug.ClassWeightedLoss(nn.CrossEntropyLoss(**more), [1.0, 2.0, 3.0]),
]
NAMES = ["prior_corrected", "lade", "smoothing", "ldam", "focal", "cdt", "weighted focal", "weighted ce"]
VOID = 255


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, C, H, W], a label map of bytes with holes, and where there are labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 5, 6, generator=generator)
    labels = torch.randint(3, (4, 5, 6), generator=generator, dtype=torch.uint8)
    labels[torch.rand(4, 5, 6, generator=generator) < 0.3] = VOID
    return logits, labels, labels != VOID


def positions(tensor: Tensor, kept: Tensor) -> Tensor:
    """Those that have labels, as samples [N, C]."""
    return tensor.movedim(1, -1)[kept]


class TestLosses:
    @pytest.mark.parametrize("make", LOSSES, ids=NAMES)
    def test_indices_without_a_label_are_left_out(self, make: Any) -> None:
        logits, labels, kept = batch()
        wanted = make()(positions(logits, kept), labels[kept].long())
        torch.testing.assert_close(make(ignore_index=VOID)(logits, labels.long()), wanted)
        torch.testing.assert_close(make(ignore_index=VOID)(logits, labels), wanted)  # bytes, as images have them
        each = make(ignore_index=VOID, reduction="none")(logits, labels.long())
        assert each.shape == labels.shape
        if "LADE" not in type(make()).__name__:
            assert not each[~kept].any()

    @pytest.mark.parametrize("make", LOSSES[:-1], ids=NAMES[:-1])
    def test_rows_of_zeros_are_left_out_if_asked_for(self, make: Any) -> None:
        logits, labels, kept = batch()
        rows = 0.8 * F.one_hot(labels.long() * kept, 3).movedim(-1, 1).float() + 0.2 / 3
        rows = rows * kept.unsqueeze(1)
        wanted = make()(positions(logits, kept), positions(rows, kept))
        torch.testing.assert_close(make(ignore_index=VOID)(logits, rows), wanted)
        with pytest.raises(ValueError, match="a row sums to 0"):
            make()(logits, rows)

    def test_a_label_outside_is_no_hole(self) -> None:
        logits, labels, _ = batch()
        with pytest.raises(ValueError, match=r"`targets` must lie in 0..2.* where ignored, but hold 255"):
            ltaug.PriorCorrectedLoss(COUNTS, ignore_index=7)(logits, labels.long())

    def test_classes_on_the_last_dim_get_a_hint(self) -> None:
        with pytest.raises(
            ValueError, match=r"have \[2, 7, 3\]\. Bring the classes to dim 1: `logits.movedim\(-1, 1\)`"
        ):
            ltaug.PriorCorrectedLoss(COUNTS)(torch.zeros(2, 7, 3), torch.zeros(2, 7, dtype=torch.long))

    def test_bytes_hold_no_minus_100(self) -> None:
        """Class 156 of label maps in bytes, which is -100 there."""
        labels = torch.tensor([156, 3], dtype=torch.uint8)
        assert ltaug.class_counts(labels, 200, ignore_index=-100).sum() == 2
        assert metrics.accuracy(labels, labels, ignore_index=-100) == 1.0
        mixer = ltaug.MixUp(200)
        mixer.ignore_index = -100
        assert mixer(torch.rand(2, 3), labels)[1].sum() == pytest.approx(2.0)
        loss = ltaug.PriorCorrectedLoss(torch.ones(256), ignore_index=-1)
        logits = torch.randn(2, 256)
        torch.testing.assert_close(loss(logits, labels + 99), loss(logits, (labels + 99).long()))

    def test_torchs_own_index_is_none_beside_another(self) -> None:
        loss = ltaug.PriorCorrectedLoss(COUNTS, ignore_index=VOID)
        with pytest.raises(ValueError, match="outside"):
            loss(torch.zeros(2, 3), torch.tensor([0, -100]))


class TestMixers:
    @pytest.mark.parametrize(
        "mixer", [ltaug.UniMix(COUNTS), ltaug.ReMix(COUNTS), ltaug.UniMix(COUNTS, in_batch_tau=0.5)]
    )
    def test_mixers_by_counts_leave_out_samples_without_a_label(self, mixer: Mixer) -> None:
        mixer.ignore_index = -100
        _, rows = mixer(torch.rand(2, 4), torch.tensor([0, -100]), torch.rand(2, 4), torch.tensor([1, 1]))
        assert rows.sum(1).tolist() == pytest.approx([1.0, 0.0])
        mixer(torch.rand(3, 4), torch.tensor([0, -100, 2]))

    def test_mixup_leaves_out_where_a_label_is_missing(self) -> None:
        _, labels, kept = batch()
        _, others, also = batch(1)
        images = torch.rand(4, 2, 5, 6)
        mixer = ltaug.MixUp(3)
        mixer.ignore_index = VOID
        torch.manual_seed(1)
        _, rows = mixer(images, labels, images.flip(0), others)
        torch.manual_seed(1)
        _, wanted = ltaug.MixUp(3)(images, labels * kept, images.flip(0), others * also)
        torch.testing.assert_close(rows, wanted * (kept & also).unsqueeze(1))
        ltaug.PriorCorrectedLoss(COUNTS, ignore_index=VOID)(torch.zeros(4, 3, 5, 6), rows)
        with pytest.raises(ValueError, match=r"range from 0 to 255.*mixer.ignore_index = 255"):
            ltaug.MixUp(3)(images, labels)

    @pytest.mark.parametrize("ignore", [None, VOID])
    def test_cutmix_pastes_labels_with_their_pixels(self, ignore: int | None) -> None:
        """The images are the label maps: where a pixel comes from, its label does."""
        _, labels, kept = batch()
        _, others, also = batch(1)
        if ignore is None:
            labels, others = labels * kept, others * also
        mixer = ltaug.CutMix(3)
        mixer.ignore_index = ignore
        images, partners = (each.float().unsqueeze(1) for each in (labels, others))
        mixed, rows = mixer(images, labels, partners, others)
        there = mixed.squeeze(1).long()
        assert torch.equal(rows.sum(1) > 0, there != VOID)
        assert torch.equal(rows.argmax(1)[there != VOID], there[there != VOID])
        assert not torch.equal(mixed, images)

    def test_cutmix_refuses_maps_of_another_size(self) -> None:
        with pytest.raises(
            ValueError, match=r"each position of inputs .*\[N, 8, 8\].*have labels of \[5, 6\] positions"
        ):
            ltaug.CutMix(3)(torch.rand(4, 3, 8, 8), batch()[1] * batch()[2])

    def test_of_single_samples(self) -> None:
        """A sample without a label, too: for semi-supervised batches."""
        mixer: Mixer = ltaug.MixUp(3)
        mixer.ignore_index = -1
        _, rows = mixer(torch.rand(2, 4), torch.tensor([0, -1]), torch.rand(2, 4), torch.tensor([1, 1]))
        assert rows[0].sum() == pytest.approx(1.0)
        assert rows[1].tolist() == [0.0, 0.0, 0.0]


class TestMetrics:
    @pytest.mark.parametrize(
        "metric",
        [
            metrics.accuracy,
            metrics.per_class_accuracy,
            metrics.balanced_accuracy,
            metrics.macro_f1,
            metrics.brier_score,
            metrics.negative_log_likelihood,
            metrics.expected_calibration_error,
            metrics.maximum_calibration_error,
            metrics.classwise_calibration_error,
            metrics.adaptive_calibration_error,
            lambda *batch, **more: metrics.shot_accuracy(*batch, [500, 50, 5], **more),
            lambda *batch, **more: metrics.classification_report(*batch, [500, 50, 5], **more),
            lambda *batch, **more: metrics.reliability_bins(*batch, **more).counts,
        ],
    )
    def test_are_those_of_the_positions_with_labels(self, metric: Any) -> None:
        logits, labels, kept = batch()
        probs = logits.softmax(1)
        found, wanted = metric(probs, labels, ignore_index=VOID), metric(positions(probs, kept), labels[kept])
        assert str(found) == str(wanted)
        with pytest.raises(ValueError, match=r"must not all be 255|on no sample"):
            metric(probs, torch.full_like(labels, VOID), ignore_index=VOID)

    def test_batch_by_batch(self) -> None:
        report = metrics.StreamingReport([500, 50, 5], ignore_index=VOID)
        parts = [batch(seed) for seed in range(3)]
        for logits, labels, _ in parts:
            report.update(logits, labels)
        report.update(parts[0][0], torch.full_like(parts[0][1], VOID))  # adds nothing
        rows = torch.cat([positions(logits.softmax(1), kept) for logits, _, kept in parts])
        wanted = metrics.classification_report(rows, torch.cat([y[kept] for _, y, kept in parts]), [500, 50, 5])
        wanted.pop("adaptive_ece")  # whose bins are known at the end only
        assert report.compute() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        ltaug.TemperatureScaling,
        lambda: ltaug.VectorScaling(3),
        lambda: ltaug.BiasCorrectedTemperatureScaling(3),
        lambda: ltaug.StructuredMatrixScaling(3),
    ],
)
def test_calibrators_are_fitted_to_the_positions_with_labels(make: Any) -> None:
    logits, labels, kept = batch()
    found = make().fit(logits, labels.long(), ignore_index=VOID)(logits)
    wanted = make().fit(positions(logits, kept), labels[kept].long())(logits)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="must not all be 255"):
        make().fit(logits, torch.full_like(labels, VOID).long(), ignore_index=VOID)


def test_weights_and_priors_of_pixels() -> None:
    """Counted from label maps, without holes."""
    _, labels, kept = batch()
    counts = ltaug.class_counts(labels, num_classes=3, ignore_index=VOID)
    assert counts.equal(ltaug.class_counts(labels[kept], num_classes=3))
    assert counts.tolist() == [int((labels == k).sum()) for k in range(3)]
    ltaug.PriorCorrectedLoss(counts, ignore_index=VOID)(torch.zeros(4, 3, 5, 6), labels.long())


class TestPlans:
    LABELS = torch.zeros(6, dtype=torch.long)

    def test_cross_entropy_is_torchs_but_for_batches_without_a_label(self) -> None:
        """torch's is NaN there, which ends a training."""
        plan = Method().plan([0] * 4, epochs=1, position_counts=COUNTS, ignore_index=VOID)
        logits, labels, _ = batch()
        logits.requires_grad_()
        for made in (plan.criterion, nn.CrossEntropyLoss(ignore_index=VOID)):
            loss = made(logits, labels.long())
            found = (loss.detach(), *torch.autograd.grad(loss, logits))
            if made is plan.criterion:
                ours = found
        torch.testing.assert_close(ours, found)
        none = plan.criterion(logits, torch.full_like(labels, VOID).long())
        assert none == 0
        assert not torch.autograd.grad(none, logits)[0].any()

    def plan(self, name: str, **changes: Any) -> Any:
        method = ltaug.METHODS[name].replace(**changes)
        return method.plan(self.LABELS, epochs=4, position_counts=[5000, 300, 20], ignore_index=VOID)

    @pytest.mark.parametrize("name", ["erm", "focal", "bayias", "median_frequency", "max_frequency", "lade", "cb_ce"])
    def test_losses_are_of_pixels_with_a_label(self, name: str) -> None:
        logits, labels, kept = batch()
        plan = self.plan(name)
        rows, y = positions(logits, kept), labels[kept].long()
        counts = torch.tensor([5000.0, 300.0, 20.0])
        wanted = {
            "erm": lambda: F.cross_entropy(rows, y),
            "focal": lambda: ltaug.FocalLoss(1.0)(rows, y),
            "bayias": lambda: F.cross_entropy(rows + counts.log(), y),
            "median_frequency": lambda: (F.cross_entropy(rows, y, reduction="none") * (300 / counts)[y]).mean(),
            "max_frequency": lambda: (F.cross_entropy(rows, y, reduction="none") * (5000 / counts)[y]).mean(),
            "lade": lambda: ltaug.LADELoss([5000, 300, 20], 0.1, 0.01)(rows, y),
            "cb_ce": lambda: (
                F.cross_entropy(rows, y, reduction="none") * ltaug.effective_number_weights([5000, 300, 20])[y]
            ).mean(),
        }[name]()
        torch.testing.assert_close(plan.criterion(logits, labels.long()), wanted.to(logits), rtol=1e-4, atol=1e-5)

    def test_the_prior_is_that_of_pixels(self) -> None:
        share = torch.tensor([5000, 300, 20], dtype=torch.float64) / 5320
        for name in ("erm", "cutmix", "mixup", "bayias"):
            torch.testing.assert_close(self.plan(name).seen_prior(), share)
        torch.testing.assert_close(self.plan("cutmix").logits_prior(), share)
        torch.testing.assert_close(self.plan("bayias").logits_prior(), torch.full((3,), 1 / 3, dtype=torch.float64))
        weighted = self.plan("median_frequency").logits_prior()
        torch.testing.assert_close(weighted, torch.full((3,), 1 / 3, dtype=torch.float64))

    def test_scenes_are_drawn_alike(self) -> None:
        plan = self.plan("erm")
        assert sorted(plan.sampler) == list(range(6))
        assert plan.class_counts.tolist() == [5000, 300, 20]

    def test_cutmix_trains(self) -> None:
        """Where a pixel without a label is pasted, there is no loss."""
        logits, labels, _ = batch()
        plan = self.plan("cutmix", partner="batch")
        _, targets = plan.mix((torch.rand(4, 2, 5, 6), labels.long()))
        assert targets.shape == (4, 3, 5, 6)
        kept = targets.sum(1) > 0
        rows, shares = positions(logits, kept), positions(targets, kept)
        torch.testing.assert_close(plan.criterion(logits, targets), F.cross_entropy(rows, shares))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("class_balanced", "`tau: 0.0` is for samples of one class; with a label at each position it must be 1.0"),
            ("unimix", "`mixer: unimix` is for samples of one class"),
            ("crt", "`sampler: class_aware` is for samples of one class"),
            ("distribution_balanced", "must be multi-hot rows"),
        ],
    )
    def test_what_goes_by_the_class_of_a_sample_is_refused(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.plan(name)

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"give the `position_counts`"):
            ltaug.METHODS["erm"].plan(self.LABELS, epochs=1, ignore_index=VOID)
        with pytest.raises(ValueError, match="`position_counts` must have 4 classes"):
            ltaug.METHODS["erm"].plan(self.LABELS, 4, epochs=1, position_counts=[3, 2, 1])
        with pytest.raises(ValueError, match="have no sample of class 1"):
            ltaug.METHODS["bayias"].plan(self.LABELS, epochs=1, position_counts=[3, 0, 1])


class TestStreamingSegmentation:
    def test_is_the_report_of_all_pixels(self) -> None:
        """Of the predictions that classification_report and confusion_matrix have, with ties, from both kinds."""
        parts = [batch(seed) for seed in range(3)]
        parts[0][0][0] = 0.0  # all classes alike
        scores = metrics.StreamingSegmentation(3, ignore_index=VOID)
        probs = metrics.StreamingSegmentation(3, ignore_index=VOID, logits=False)
        halves = [metrics.StreamingSegmentation(3, ignore_index=VOID) for _ in range(2)]
        for k, (logits, labels, _) in enumerate(parts):
            scores.update(logits, labels)
            probs.update(logits.softmax(1), labels)
            halves[k % 2].update(logits, labels.long())
        scores.update(parts[0][0], torch.full_like(parts[0][1], VOID))  # adds nothing
        halves[0].merge(halves[1])
        rows = torch.cat([positions(logits, kept) for logits, _, kept in parts]).softmax(1)
        y = torch.cat([labels[kept] for _, labels, kept in parts])
        report = metrics.classification_report(rows, y, [1, 1, 1])
        confusion = metrics.confusion_matrix(rows, y)
        wanted = {name: report[name] for name in ("top1", "confidence", "ece", "nll")}
        wanted |= {
            "miou": metrics.segmentation_scores(confusion).mean_iou,
            "macc": (confusion.diag() / confusion.sum(1)).mean().item(),
        }
        for found in (scores, probs, halves[0]):
            assert found.compute() == pytest.approx(wanted, rel=1e-5)
            assert torch.equal(found.state["confusion"], confusion)

    @pytest.mark.parametrize("logits", [True, False])
    def test_what_is_left_out_may_be_nan(self, logits: bool) -> None:
        values, labels, kept = batch()
        values = values if logits else values.softmax(1)
        found, wanted = (metrics.StreamingSegmentation(3, ignore_index=VOID, logits=logits) for _ in range(2))
        found.update(torch.where(kept.unsqueeze(1), values, torch.nan), labels)
        wanted.update(values, labels)
        assert found.compute() == wanted.compute()

    def test_keeps_sums_only(self) -> None:
        scores = metrics.StreamingSegmentation(3)
        before = sum(value.numel() for value in scores.state.values())
        for _ in range(3):
            scores.update(torch.randn(8, 3, 64, 64), torch.randint(3, (8, 64, 64)))
        assert sum(value.numel() for value in scores.state.values()) == before == 9 + 3 * 15 + 1

    def test_what_cannot_be_scored(self) -> None:
        logits, labels, _ = batch()
        scores = metrics.StreamingSegmentation(3, ignore_index=VOID)
        for bad, y, message in (
            (logits[:, :2], labels, r"shape \[4, 3, 5, 6\], classes on dim 1"),
            (logits, labels[:, :4], r"\[4, 3, 4, 6\]"),
            (logits.masked_fill(logits > 1, torch.nan), labels, "must be finite"),
            (logits, labels.long() + 1, "range from"),
        ):
            with pytest.raises(ValueError, match=message):
                scores.update(bad, y)
        with pytest.raises(ValueError, match="must sum to 1"):
            metrics.StreamingSegmentation(3, ignore_index=VOID, logits=False).update(logits, labels)
        with pytest.raises(ValueError, match="no pixel"):
            scores.compute()
