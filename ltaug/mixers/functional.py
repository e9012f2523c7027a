"""Formulas of the mixers as pure functions of tensors: no randomness, nothing in place."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ltaug._arguments import check_same_length, checked
from ltaug.mixers._fourier import fast_length

__all__ = [
    "between_class_mix",
    "between_class_weight",
    "cut_boxes",
    "dense_targets",
    "mix",
    "remix_label_weight",
    "sound_level",
    "unimix_factor",
]

Level = Literal["a_weighted", "rms", "loudness"]


@checked
def mix(x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Mix two batches sample by sample, lam_i * x_i + (1 - lam_i) * y_i.

    The formula of mixup (Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412).

    Args:
        x: [N, ...], floating point.
        y: the partners, like ``x``.
        lam: weight of ``x``, [N], in [0, 1].

    Returns:
        A new tensor of the shape, type and memory format of ``x``.

    >>> mix(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([1.0, 0.5])).tolist()
    [[1.0], [2.0]]
    """
    if x.shape != y.shape:
        raise ValueError(f"`x` and `y` must have the same shape, but have {list(x.shape)} and {list(y.shape)}.")
    if lam.shape != x.shape[:1] or not x.is_floating_point() or x.dtype != y.dtype or not lam.is_floating_point():
        raise ValueError(
            f"`x`, `y` and `lam` must be floating point, the first two of one type, and `lam` one number a sample, but "
            f"are {x.dtype} {list(x.shape)}, {y.dtype} and {lam.dtype} {list(lam.shape)}."
        )
    return torch.lerp(y, x, broadcast(lam, x))


@checked
def unimix_factor(draw: Tensor, n_i: Tensor, n_j: Tensor) -> Tensor:
    """Compute the UniMix factor, xi* = (draw + n_j / (n_i + n_j)) mod 1.

    Xu et al. (NeurIPS 2021, Eq. 6, https://arxiv.org/abs/2111.03874). It concentrates on the rarer of the two classes:
    with a small alpha the weight of sample i is near 1 where n_i << n_j. At the released alpha = 0.8 the effect is
    slight: P(xi* >= 1/2) is 0.545 for a ratio of 9 to 1.

    Args:
        draw: a Beta(alpha, alpha) draw a pair, [N], in [0, 1].
        n_i: count (or prior) of the class of the first sample, [N].
        n_j: count (or prior) of the class of the partner, [N].

    Returns:
        The weight of the first sample, [N], in [0, 1).

    >>> unimix_factor(torch.tensor([0.1, 0.9]), torch.tensor([1, 3]), torch.tensor([3, 1]))
    tensor([0.8500, 0.1500])
    """
    check_same_length(draw=draw, n_i=n_i, n_j=n_j)
    return torch.frac(draw + n_j / (n_i + n_j))  # nothing is negative here, and `remainder` takes twice as long


@checked
def remix_label_weight(lam: Tensor, n_i: Tensor, n_j: Tensor, kappa: float = 3.0, tau: float = 0.5) -> Tensor:
    """Compute ReMix's weight of the first label (Chou et al., ECCV workshops 2020, https://arxiv.org/abs/2007.03943).

    The rarer class takes the whole label where it is rare enough and not a mere trace:
    0 where n_i / n_j >= kappa and lam < tau; 1 where n_i / n_j <= 1 / kappa and 1 - lam < tau; lam elsewhere.

    Args:
        lam: weight of the first input, [N].
        n_i: count of the first sample's class, [N].
        n_j: count of the partner's class, [N].
        kappa: ratio of counts from which a class is the rarer one; > 1.
        tau: share of the input below which the more frequent class gives way.

    Returns:
        [N], in [0, 1].

    >>> remix_label_weight(torch.tensor([0.4, 0.6, 0.4]), torch.tensor([90, 90, 10]), torch.tensor([10, 10, 10]))
    tensor([0.0000, 0.6000, 0.4000])
    """
    check_same_length(lam=lam, n_i=n_i, n_j=n_j)
    check_remix(kappa, tau)
    weight = torch.where((n_i >= kappa * n_j) & (lam < tau), torch.zeros_like(lam), lam)
    return torch.where((kappa * n_i <= n_j) & (1.0 - lam < tau), torch.ones_like(lam), weight)


def check_remix(kappa: float, tau: float) -> None:
    """Raise ValueError for parameters of ReMix out of range."""
    if not kappa > 1.0:
        raise ValueError(
            f"`kappa` is the ratio of counts that makes a class the rarer one and must exceed 1, but is {kappa}."
        )
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"`tau` is a share of the input and must lie in [0, 1], but is {tau}.")


@checked
def cut_boxes(lam: Tensor, centre: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute CutMix's boxes: of relative volume 1 - lam around a centre, clipped at the borders.

    Yun et al. (ICCV 2019, https://arxiv.org/abs/1905.04899).

    Args:
        lam: share of the input that is to stay, [N].
        centre: relative place of the centre along each axis, [N, D], in [0, 1).
        sizes: length of each of the D axes.

    Returns:
        First and last + 1 index along each axis, int64 [N, D] both, and the share that does stay after clipping and
        rounding, [N]: the weight of the first label.

    >>> cut_boxes(torch.tensor([0.75]), torch.tensor([[0.5, 0.0]]), [8, 8])
    (tensor([[2, 0]]), tensor([[6, 2]]), tensor([0.8750]))
    """
    if lam.ndim != 1 or list(centre.shape) != [len(lam), len(sizes)] or not sizes or min(sizes) < 1:
        raise ValueError(
            "`lam` must be [N], `centre` [N, D] and `sizes` D positive lengths, but they are of shape "
            f"{list(lam.shape)} and {list(centre.shape)}, and {sizes}."
        )
    for name, given in (("lam", lam), ("centre", centre)):
        if not given.is_floating_point():
            raise ValueError(f"`{name}` must be floating point, but is {given.dtype}.")
        # To read a value would make an accelerator wait.
        if given.device.type == "cpu" and not bool(((given >= 0.0) & (given <= 1.0)).all()):
            raise ValueError(f"`{name}` must lie in 0..1, but holds others, or NaN.")
    return boxes(lam, centre, sizes)


def boxes(lam: Tensor, centre: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`cut_boxes` of arguments that are known to be right."""
    # Axis by axis with plain numbers: a tensor of the sizes would make a GPU wait for its copy.
    side = (1.0 - lam).clamp_min(0.0).pow(1.0 / len(sizes))
    starts, stops, share = [], [], torch.ones_like(lam)
    for axis, size in enumerate(sizes):
        half = (side * size).long() // 2
        middle = (centre[:, axis] * size).long()
        starts.append((middle - half).clamp_min(0))
        stops.append((middle + half).clamp_max(size))
        share = share * ((stops[axis] - starts[axis]).to(lam.dtype) / size)
    return torch.stack(starts, 1), torch.stack(stops, 1), 1.0 - share


@checked
def dense_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Convert class indices to probabilities; probabilities pass through.

    Args:
        targets: int [N, ...], or probabilities [N, C, ...].
        num_classes: C.

    Returns:
        Floating point [N, C, ...].

    >>> dense_targets(torch.tensor([1]), 3)
    tensor([[0., 1., 0.]])
    """
    if targets.ndim < 1 or targets.dtype == torch.bool:
        raise ValueError(
            f"`targets` must be class indices [N, ...], but are {targets.dtype} of shape {list(targets.shape)}."
        )
    if targets.device.type == "cpu":  # to read a value would make an accelerator wait
        check_indices(targets, num_classes, "targets")
    return one_hot(targets, num_classes)


def one_hot(targets: Tensor, num_classes: int) -> Tensor:
    """Convert class indices to probabilities as :func:`dense_targets` does, without a look at them."""
    if targets.is_floating_point():
        if targets.ndim < 2 or targets.shape[1] != num_classes:
            raise ValueError(
                f"`targets` must be class indices [N, ...] or probabilities [N, {num_classes}, ...], but are "
                f"{targets.dtype} of shape {list(targets.shape)}."
            )
        return targets
    shape = (targets.shape[0], num_classes, *targets.shape[1:])
    dense = torch.zeros(shape, device=targets.device, dtype=torch.get_default_dtype())
    return dense.scatter_(1, targets.long().unsqueeze(1), 1.0)


def check_indices(targets: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError for class indices outside 0..C-1; probabilities pass, and what has no values yet."""
    if targets.is_floating_point() or targets.is_meta or not targets.numel() or torch.compiler.is_compiling():
        return
    low, high = (int(end) for end in targets.long().aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"`{name}` must lie in 0..{num_classes - 1}, the classes of the mixer, but range from {low} to {high}. "
            "Labels that count from 1 need `targets - 1`. Positions without a label (-100, -1, 255) are left out with "
            "`mixer.ignore_index = 255`."
        )


def broadcast(lam: Tensor, like: Tensor) -> Tensor:
    """Reshape [N] to [N, 1, ...] in the type and rank of ``like``, to be multiplied with it."""
    if lam.dtype != like.dtype:  # asked first, because `to` takes several microseconds to do nothing
        lam = lam.to(like.dtype)
    return lam.view(-1, *[1] * (like.ndim - 1))


@checked
def sound_level(waveforms: Tensor, sample_rate: float, mode: Level = "a_weighted") -> Tensor:
    """Loudness of clips: A-weighted energy, maximum over frames.

    As between-class learning measures it (Tokozume et al., ICLR 2018, https://arxiv.org/abs/1711.10282). A frame has
    n_fft = 2,048 samples below 32 kHz and 4,096 from there on, and starts every n_fft / 2; a remainder at the end is
    left out, and a clip shorter than a frame is padded with zeros. With X the spectrum (frequencies 0 to half the rate)
    of a frame under a periodic Hann window, and A(f) the A-weighting in dB,

        level = max over frames of 10 log10(max(sum_f abs(X_f)^2 10^(max(A(f), -80) / 10), 10^-8))

    so that silence has a level of -80 dB. It is meant for waveforms in [-1, 1]: a clip in the range of 16 bit has 90
    dB more, and only differences of levels mean anything. No gradient flows through a level.

    Args:
        waveforms: floating point [N, T] or [N, channels, T]; the energy is the mean over the channels, which may be
            several dimensions.
        sample_rate: Hz.
        mode: "a_weighted"; or "rms", the mean square of a frame without window and weighting; or "loudness", the gated
            loudness of ITU-R BS.1770-4 in LKFS, for up to five channels in its order, whose energies are summed. Its
            blocks last 0.4 s: a shorter clip is followed by zeros. The gate, -70 LKFS, is the level of what never gets
            above it.

    Returns:
        dB, [N]; float32 at least, also under autocast.

    Raises:
        ValueError: the waveforms are of another shape or type, or the mode or rate is not valid.

    >>> tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)  # A(1000 Hz) = 0
    >>> sound_level(torch.stack([tone, tone / 10, 0 * tone]), sample_rate=16000)
    tensor([ 55.9464,  35.9464, -80.0000])
    """
    if not waveforms.is_floating_point() or waveforms.ndim < 2:
        raise ValueError(
            f"`waveforms` must be floating point [N, T] or [N, channels, T], but are {waveforms.dtype} of shape "
            f"{list(waveforms.shape)}."
        )
    check_level(mode, "mode")
    frame = frame_length(sample_rate)
    dtype = torch.promote_types(waveforms.dtype, torch.float32)
    if not len(waveforms):  # a process may have no row of the last batch; Fourier transforms need at least one
        return torch.empty(0, device=waveforms.device, dtype=dtype)
    with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
        channels = waveforms.flatten(1, -2) if waveforms.ndim > 2 else waveforms.unsqueeze(1)
        if mode == "loudness":
            return _loudness(channels, float(sample_rate), dtype)
        window, weight = _a_weighting(float(sample_rate), frame, waveforms.device, dtype)
        if channels.shape[-1] < frame:
            channels = F.pad(channels, (0, frame - channels.shape[-1]))
        frames = channels.unfold(-1, frame, frame // 2)  # [N, channels, frames, frame], a view
        # All frames and spectra take four times the memory of the clips. For a few clips at a time, in reused memory,
        # they stay in the processor's cache, which makes this fast.
        several = max(1, (2**19 if waveforms.device.type == "cpu" else 2**26) // max(1, frames[:1].numel()))
        memory = torch.empty(min(several, len(frames)), *frames.shape[1:], device=waveforms.device, dtype=dtype)
        energies = []
        for piece in torch.split(frames, several):
            held = memory[: len(piece)]
            if mode == "a_weighted":
                # Real and imaginary parts side by side: the sum over both is part of the product with the weights.
                spectrum = torch.fft.rfft(torch.mul(piece, window, out=held))
                energy = torch.view_as_real(spectrum).flatten(-2).square_() @ weight
            else:
                energy = torch.square(held.copy_(piece), out=held).mean(-1)
            energies.append(energy.mean(1).amax(-1))
        return 10.0 * torch.cat(energies).clamp_min(1e-8).log10()


@checked
def between_class_weight(ratio: Tensor, x_level: Tensor, y_level: Tensor) -> Tensor:
    """Amplitude of the first clip so that it is heard as the share ``ratio`` of a mixture.

    Tokozume et al. (ICLR 2018, https://arxiv.org/abs/1711.10282): p = 1 / (1 + 10^((x_level - y_level) / 20) (1 -
    ratio) / ratio); 0 and 1 where the ratio is.

    Args:
        ratio: share of the first clip, [N], in [0, 1].
        x_level: level of the first clip, dB [N].
        y_level: level of the second clip, dB [N].

    Returns:
        p, [N], in [0, 1].

    >>> between_class_weight(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 20.0, 0.0]), torch.zeros(3))
    tensor([0.5000, 0.0909, 0.0000])
    """
    check_same_length(ratio=ratio, x_level=x_level, y_level=y_level)
    return ratio / (ratio + torch.pow(10.0, (x_level - y_level) / 20.0) * (1.0 - ratio))


@checked
def between_class_mix(x: Tensor, y: Tensor, ratio: Tensor, sample_rate: float, level: Level = "a_weighted") -> Tensor:
    """Mix two batches of sounds so that each pair is heard in a given ratio, whatever the levels of its clips are.

    (p x + (1 - p) y) / sqrt(p^2 + (1 - p)^2), with p of :func:`between_class_weight` and levels of :func:`sound_level`
    (Tokozume et al., ICLR 2018, https://arxiv.org/abs/1711.10282). The denominator keeps the energy of two clips of
    equal energy that have nothing in common.

    Args:
        x: waveforms, floating point [N, T] or [N, channels, T].
        y: the partners, like ``x``.
        ratio: share of ``x``, [N], in [0, 1]: also its label's weight.
        sample_rate: Hz.
        level: "a_weighted", "rms" or "loudness".

    Returns:
        A new tensor of the shape and type of ``x``.

    Raises:
        ValueError: shapes differ, or as in :func:`sound_level`.

    >>> x, y = torch.ones(2, 2048), torch.zeros(2, 2048)
    >>> between_class_mix(x, y, torch.tensor([1.0, 0.0]), sample_rate=16000)[:, 0]
    tensor([1., 0.])
    """
    if x.shape != y.shape:
        raise ValueError(f"`x` and `y` must have the same shape, but have {list(x.shape)} and {list(y.shape)}.")
    check_level(level, "level")
    if not x.is_floating_point() or x.dtype != y.dtype or not ratio.is_floating_point():
        raise ValueError(
            f"`x`, `y` and `ratio` must be floating point, the first two of one type, but are {x.dtype}, {y.dtype} and "
            f"{ratio.dtype}."
        )
    if ratio.shape != x.shape[:1]:
        raise ValueError(
            f"`ratio` must be one number for each of the pairs {list(x.shape[:1])}, but has shape {list(ratio.shape)}."
        )
    x_level, y_level = (sound_level(each, sample_rate, level) for each in (x, y))
    x_gain, y_gain = between_class_gains(between_class_weight(ratio, x_level, y_level))
    return (x * broadcast(x_gain, x)).addcmul_(y, broadcast(y_gain, y))


def between_class_gains(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the factors of the two clips, p and 1 - p over sqrt(p^2 + (1 - p)^2), [N] each."""
    length = torch.hypot(weight, 1.0 - weight)
    return weight / length, (1.0 - weight) / length


def check_level(level: str, name: str) -> None:
    """Raise ValueError for an unknown measure of loudness."""
    if level not in get_args(Level):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, get_args(Level)))}, but is {level!r}.")


def frame_length(sample_rate: float) -> int:
    """Number of samples of a frame at a rate in Hz: 2,048 below 32 kHz and 4,096 from there on."""
    if not 0.0 < sample_rate < math.inf:
        raise ValueError(f"`sample_rate` is in Hz and must be positive, but is {sample_rate}.")
    return 2048 if sample_rate < 32000 else 4096


@functools.lru_cache(maxsize=16)
def _a_weighting(rate: float, frame: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute the window, [frame], and the weight of every frequency's real and imaginary part, [frame + 2]."""
    window = torch.hann_window(frame, periodic=True, dtype=torch.float64)
    square = torch.linspace(0.0, rate / 2, frame // 2 + 1, dtype=torch.float64).square()
    square[0] = 1.0  # Hz^2: frequency 0, the mean, has no logarithm
    poles = (20.6**2, 107.7**2, 737.9**2, 12194.0**2)  # the standard's corner frequencies, the outer two twice
    low, second, third, high = ((square + pole).log10() for pole in poles)
    decibel = 2.0 + 20.0 * (2.0 * math.log10(12194.0) + 2.0 * square.log10() - high - low - 0.5 * (second + third))
    weight = torch.pow(10.0, decibel.clamp_min(-80.0) / 10.0).repeat_interleave(2)
    return window.to(device, dtype), weight.to(device, dtype)


def _loudness(channels: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """Compute the gated loudness of clips [N, channels, T] by ITU-R BS.1770-4, [N]."""
    if channels.shape[1] > 5:
        raise ValueError(
            f"`waveforms` must have at most 5 channels for the loudness of ITU-R BS.1770, but have {channels.shape[1]}."
        )
    if rate < 4000:
        raise ValueError(f"`sample_rate` must be at least 4000 Hz for the loudness of ITU-R BS.1770, but is {rate:g}.")
    block = round(0.4 * rate)
    hop = round(0.25 * block)
    length = max(channels.shape[-1], block)
    # Convolution by Fourier transforms: zeros of a fifth of a second take up what of the filters rings on.
    size = fast_length(length + round(0.2 * rate))
    response, gains = _k_weighting(rate, size, channels.device, dtype)
    levels = []
    for piece in torch.split(channels.to(dtype), max(1, (2**19 if channels.device.type == "cpu" else 2**26) // size)):
        heard = torch.fft.irfft(torch.fft.rfft(piece, n=size) * response, n=size)[..., :length]
        energy = (heard.square_().unfold(-1, block, hop).mean(-1) * gains[: piece.shape[1], None]).sum(1)  # [N, blocks]
        kept = energy > 10.0 ** ((-70.0 + 0.691) / 10.0)
        audible = kept.any(1)
        mean = (energy * kept).sum(1) / kept.sum(1).clamp_min(1)
        kept &= energy > 0.1 * mean[:, None]  # 10 dB below
        mean = (energy * kept).sum(1) / kept.sum(1).clamp_min(1)
        levels.append(torch.where(audible, -0.691 + 10.0 * mean.log10(), -70.0))
    return torch.cat(levels)


@functools.lru_cache(maxsize=16)
def _k_weighting(rate: float, size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute the response of the K filters, [size // 2 + 1], and the weights of five channels.

    A shelf of 4 dB above 1.5 kHz and a high pass at 38 Hz, second order each, of the formulas for any rate that others
    have (R. Bristow-Johnson's); at 48 kHz they are within 0.05 dB of the standard's numbers.
    """
    angle = torch.arange(size // 2 + 1, dtype=torch.float64) * (-2 * math.pi / size)
    z = torch.polar(torch.ones_like(angle), angle)
    gain = 10.0 ** (4.0 / 40.0)
    w, q = 2 * math.pi * 1500.0 / rate, 1 / math.sqrt(2)
    slope, cosine = 2 * math.sqrt(gain) * math.sin(w) / (2 * q), math.cos(w)
    up, down = gain + 1, gain - 1
    shelf = gain * ((up + down * cosine + slope) - 2 * (down + up * cosine) * z + (up + down * cosine - slope) * z**2)
    shelf = shelf / ((up - down * cosine + slope) + 2 * (down - up * cosine) * z + (up - down * cosine - slope) * z**2)
    w, q = 2 * math.pi * 38.0 / rate, 0.5
    slope, cosine = math.sin(w) / (2 * q), math.cos(w)
    high = (1 + cosine) / 2 * (1 - z) ** 2 / ((1 + slope) - 2 * cosine * z + (1 - slope) * z**2)
    complex_type = torch.complex128 if dtype == torch.float64 else torch.complex64
    weights = torch.tensor([1.0, 1.0, 1.0, 1.41, 1.41], dtype=torch.float64)
    return (shelf * high).to(device, complex_type), weights.to(device, dtype)
