"""One file of a run: its logits are the run's, under any class prior, of any number of samples of any size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ltaug import export
from ltaug.correction import CALIBRATORS, Correction
from ltaug.errors import UserError
from ltaug.export import DeployedModel, export_model, load_exported
from ltaug.posthoc import shift_binary_logits, shift_logits

PICTURES = {"kind": "images", "image_size": 16, "test_resize": 0.875, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
SMALL = {"kind": "small_images", "size": [16, 16, 3], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
PRIOR = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
NAMES = ["dog", "cat", "ox, wild"]


def pictures(size: int, height: int = 16, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(width)
    return torch.randint(256, (size, height, width, 3), dtype=torch.uint8, generator=generator)


def trained(**values: Any) -> Any:
    """What is loaded of a run."""
    usual: dict[str, Any] = {"network": nn.Identity(), "preprocessing": {}, "correction": None, "folder": Path("run")}
    return SimpleNamespace(**usual | {"class_names": NAMES, "logits_prior": PRIOR, "several_labels": False} | values)


def calibrators() -> dict[str, nn.Module]:
    """Of every kind, with numbers of their own."""
    torch.manual_seed(5)
    made = {name: make(3) for name, make in CALIBRATORS.items()}
    for calibrator in made.values():
        for values in calibrator.buffers():
            values += 0.1 * torch.randn_like(values)
    return made


@pytest.fixture(scope="module")
def correction() -> Correction:
    """Calibrates, and corrects for another prior by half."""
    made = Correction(PRIOR, [0.2, 0.2, 0.6], strength=0.5, calibrator=calibrators()["bias_corrected"])
    made._tuned = True
    return made


@pytest.fixture(scope="module")
def model(correction: Correction) -> DeployedModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    return DeployedModel.of(trained(network=network.eval(), preprocessing=SMALL, correction=correction))


@pytest.fixture(scope="module")
def files(model: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model in a format, made when it is first asked for."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)

    @cache
    def file(form: str) -> Path:
        folder = tmp_path_factory.mktemp("exported")
        facts = {"class_names": NAMES, "method": "erm"}
        written = export_model(model, folder / f"model.{form}", SMALL, facts, form)
        assert written.difference < 1e-5
        assert written.beside is None
        assert list(folder.iterdir()) == [written.path]
        for place in (Path(export.__file__).parent, Path(torch.__file__).parent):  # a file for other people
            assert f"{place}/".encode() not in written.path.read_bytes()
        return written.path

    return file


@torch.no_grad()
@pytest.mark.parametrize("form", export.FORMATS)
def test_gives_the_corrected_logits_of_the_network(
    form: str, files: Callable[[str], Path], model: DeployedModel, correction: Correction
) -> None:
    exported = load_exported(files(form))
    for size in (1, 5):
        samples = pictures(size)
        plain = model.network(model.preprocessing(samples))
        torch.testing.assert_close(exported(samples), correction(plain).float(), rtol=1e-4, atol=1e-4)
        other = [5, 5, 1]
        expected = correction(plain, target_prior=other)
        torch.testing.assert_close(exported(samples.numpy(), other), expected.float(), rtol=1e-4, atol=1e-4)
    info = exported.info
    assert (info["class_names"], info["method"], info["several_labels"]) == (NAMES, "erm", False)
    assert info["logits_prior"] == pytest.approx([0.6, 0.3, 0.1])
    assert info["default_prior"] == pytest.approx([0.2, 0.2, 0.6])
    assert (info["calibrator"], info["strength"]) == ("BiasCorrectedTemperatureScaling", 0.5)
    assert info["inputs"] == {"dtype": "uint8", "shape": ["batch", 16, 16, 3]}
    assert info["preprocessing"] == SMALL


@pytest.mark.slow  # pytest -m slow tests/test_export.py
@torch.no_grad()
@pytest.mark.parametrize("form", export.FORMATS)
def test_pictures_may_have_any_size(form: str, model: DeployedModel, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    resizes = DeployedModel(model.network, PICTURES, PRIOR)
    exported = load_exported(export_model(resizes, tmp_path / f"m.{form}", PICTURES, {"class_names": NAMES}, form).path)
    assert exported.info["inputs"]["shape"] == ["batch", "height", "width", 3]
    for size, height, width in ((1, 40, 30), (5, 16, 200), (3, 11, 12)):
        samples = pictures(size, height, width)
        torch.testing.assert_close(exported(samples), resizes(samples), rtol=1e-4, atol=1e-4)


def test_onnxruntime_alone_needs_only_the_samples(files: Callable[[str], Path], model: DeployedModel) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(files("onnx")), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["inputs"]
    assert [each.name for each in session.get_overridable_initializers()] == ["class_prior"]
    assert session.get_inputs()[0].shape == ["batch", 16, 16, 3]
    samples, prior = pictures(2).numpy(), np.float32([0.1, 0.1, 0.8])
    for given in ({"inputs": samples}, {"inputs": samples, "class_prior": prior}):
        with torch.no_grad():
            expected = model(*(torch.from_numpy(each) for each in given.values()))
        assert np.allclose(session.run(None, given)[0], expected.numpy(), atol=1e-4)
    for wrong, alone in ((0.0, -np.inf), (-0.1, np.nan)):  # a graph cannot refuse them
        given["class_prior"] = np.float32([0.5, 0.5, wrong])
        found = session.run(None, given)[0]
        assert np.isfinite(found[:, :2]).all()
        assert np.array_equal(found[:, 2], [alone] * 2, equal_nan=True)


def test_the_script_for_those_without_this_library(
    files: Callable[[str], Path],
    model: DeployedModel,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = pytest.importorskip("PIL.Image")
    page = (root / "docs" / "use_a_run.md").read_text()
    (script,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "picture.png" in block)
    assert len(script.splitlines()) <= 15
    assert "ltaug" not in re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(files("onnx").read_bytes())
    samples = pictures(1)
    image.fromarray(samples[0].numpy()).save("picture.png")
    exec(compile(script, "script", "exec"), {})
    with torch.no_grad():
        given, even = model(samples).softmax(1)[0], model(samples, torch.ones(3)).softmax(1)[0]
    expected = [f"{NAMES[int(probs.argmax())]} {float(probs.max()):.3f}" for probs in (given, even)]
    assert capsys.readouterr().out.splitlines() == expected
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).eval()  # of a prior that is not known
    export_model(DeployedModel(network, SMALL), tmp_path / "model.onnx", SMALL, {"class_names": NAMES})
    exec(compile(script, "script", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.slow
def test_a_program_is_opened_by_torch_alone(files: Callable[[str], Path], model: DeployedModel, tmp_path: Path) -> None:
    code = """
import json, sys, torch
found = {"ltaug": ""}
program = torch.export.load("model.pt2", extra_files=found).module()
prior = torch.tensor(json.loads(found["ltaug"])["default_prior"])
torch.save(program(torch.load("samples.pt"), prior), "logits.pt")
assert not [name for name in sys.modules if name.partition(".")[0] in ("ltaug", "torchvision", "timm", "onnx")]
"""
    (tmp_path / "model.pt2").write_bytes(files("pt2").read_bytes())
    torch.save(pictures(3), tmp_path / "samples.pt")
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "logits.pt"), model(pictures(3)), atol=1e-5)


@torch.no_grad()
def test_the_shift_is_the_library_s() -> None:
    logits, target = torch.randn(4, 3, 2, 2), torch.tensor([0.5, 0.2, 0.3])
    for strength in (0.0, 1.0, 1.7):  # for positions, too
        model = DeployedModel(nn.Identity(), {}, PRIOR, strength=strength)
        assert torch.equal(model(logits), logits)  # the default is the prior that they are under
        torch.testing.assert_close(model(logits, 7 * target), shift_logits(logits, PRIOR, target, strength))
    for name, calibrator in calibrators().items():
        expected = shift_logits(calibrator(logits), PRIOR, target)
        model = DeployedModel(nn.Identity(), {}, PRIOR, calibrator=calibrator)
        torch.testing.assert_close(model(logits, target), expected, msg=name)
    shares = torch.tensor([0.5, 0.9, 0.01])  # of several labels
    model = DeployedModel(nn.Identity(), {}, shares, several_labels=True)
    assert torch.equal(model(logits), logits)
    torch.testing.assert_close(model(logits, target), shift_binary_logits(logits, shares, target))
    unknown = DeployedModel(nn.Identity(), {})
    assert torch.equal(unknown(logits), logits)


@torch.no_grad()
def test_priors_that_float32_cannot_hold() -> None:
    logits = torch.randn(2, 3)
    for given in ([3e38, 3e38, 3e38], [1e300, 1e300, 1e300]):
        model = DeployedModel(nn.Identity(), {}, PRIOR)
        torch.testing.assert_close(
            model(logits, torch.tensor(given, dtype=torch.float64)), model(logits, torch.ones(3))
        )
    for several in (False, True):
        model = DeployedModel(nn.Identity(), {}, [1e-50, 0.5, 1 - 1e-12], several_labels=several)
        assert model(logits, torch.tensor([0.5, 0.5, 1e-60], dtype=torch.float64)).isfinite().all()


def test_priors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    logits = torch.zeros(2, 3)
    model = DeployedModel(nn.Identity(), {}, PRIOR)
    for wrong in (torch.ones(1), torch.ones(4)):
        with pytest.raises(ValueError, match=f"`class_prior` must have one number a class, 3, but has {len(wrong)}"):
            model(logits, wrong)
    for wrong in (torch.ones(2, 3), torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 1.0, -1.0])):
        with pytest.raises(ValueError, match="`class_prior` must"):
            model(logits, wrong)
    with pytest.raises(ValueError, match="`class_prior` needs `logits_prior`"):
        DeployedModel(nn.Identity(), {})(logits, torch.ones(3))
    with pytest.raises(ValueError, match="`default_prior` needs `logits_prior`"):
        DeployedModel(nn.Identity(), {}, default_prior=PRIOR)
    with pytest.raises(ValueError, match="`default_prior` must have one number a class, 3, but has 1"):
        DeployedModel(nn.Identity(), {}, PRIOR, [1.0])
    with pytest.raises(UserError, match="`run`: `from_prior` must have one number a class, 3, but has 1"):
        DeployedModel.of(trained(), from_prior=[1.0])
    for names, prior in ((NAMES[:2], PRIOR), (NAMES, [1.0])):
        model = DeployedModel(nn.Identity(), {}, prior)
        with pytest.raises(UserError, match=r"must have one (name|number) for each of the 3 logits, but has [21]\."):
            export_model(model, tmp_path / "model.pt2", {"size": [3]}, {"class_names": names}, "pt2")


def test_which_prior_it_starts_from(correction: Correction) -> None:
    def of(saved: Correction | None, **options: Any) -> DeployedModel:
        return DeployedModel.of(trained(correction=saved), **options)

    same = pytest.approx(PRIOR.tolist())
    assert of(None).priors == {"logits_prior": same, "default_prior": same}
    for given in ([3, 1, 0], torch.tensor([3.0, 1.0, 0.0])):
        assert of(None, from_prior=given).priors["logits_prior"] == pytest.approx([0.5, 1 / 6, 1 / 3])
    labels = trained(logits_prior=torch.tensor([0.9, 0.0, 1.0]), several_labels=True)
    assert DeployedModel.of(labels).priors["logits_prior"] == pytest.approx([0.9, 0.5, 0.5])
    assert of(None, from_prior=[1, 1, 2]).priors["default_prior"] == [0.25, 0.25, 0.5]
    raw = of(correction, raw=True)
    assert (raw.calibrator, raw.strength, raw.priors["default_prior"]) == (None, 1.0, same)
    assert of(correction, raw=True, from_prior=[1, 1, 2]).priors["logits_prior"] == [0.25, 0.25, 0.5]
    with pytest.raises(UserError, match=r"correction that starts from a prior of its own\. Leave out `from_prior`, or"):
        of(correction, from_prior=[1, 1, 2])
    with pytest.raises(UserError, match=r"has a correction with a prior a sample\. Leave it out"):
        of(Correction(PRIOR, [[0.2, 0.2, 0.6]]))


def test_what_does_not_fit_is_refused(files: Callable[[str], Path], tmp_path: Path) -> None:
    exported = load_exported(files("onnx"))
    good = pictures(2)
    for wrong in (good.float(), good[0], good[:0], good[..., :1]):
        with pytest.raises(ValueError, match=r"`inputs` must be uint8 of shape \[batch, 16, 16, 3\], but are"):
            exported(wrong)
    with pytest.raises(ValueError, match="`class_prior` must have one number a class, 3, but has 2"):
        exported(good, [0.5, 0.5])
    with pytest.raises(ValueError, match="`class_prior`"):
        exported(good, [0.5, 0.5, 0.0])
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    (tmp_path / "model.pt2").write_bytes(b"nothing")
    for name, reason in {
        "gone.onnx": "is no file",
        "model.onnx": "cannot be opened as ONNX",
        "model.pt2": "cannot be opened as a program of torch.export",
    }.items():
        with pytest.raises(UserError, match=reason):
            load_exported(tmp_path / name)
    program = torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(UserError, match="is no export of ltaug: it has no metadata 'ltaug'"):
        load_exported(tmp_path / "model.pt2")


class Chooses(nn.Module):
    """Computes something else by what it sees."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :3] if float(inputs.mean()) > 0 else inputs[:, 1:4]


class Refuses(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise UserError("Take another network.")


class Random(nn.Module):
    """Another network in the file than here."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :3] * (2.0 if torch.compiler.is_exporting() else 1.0)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (
            Chooses,
            r"cannot be exported as pt2: .* Try the format onnx\. The run itself can be used where ltaug is inst",
        ),
        (Refuses, "^Take another network.$"),
        (Random, "gives other logits than the network: of class '.*' .* instead of .* of the largest logit. No file"),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(network: Callable[[], nn.Module], reason: str, tmp_path: Path) -> None:
    model = DeployedModel(network(), {}, PRIOR)
    with pytest.raises(UserError, match=reason):
        export_model(model, tmp_path / "model.pt2", {}, {"class_names": NAMES}, "pt2", input_shape=[5])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"has no `kind`: .* Say what shape one sample has: `input_shape`, such as 64"):
        export_model(model, tmp_path / "model.pt2", {}, {"class_names": NAMES}, "pt2")


def test_a_network_of_somebody_s_own_takes_what_it_takes(tmp_path: Path) -> None:
    model = DeployedModel(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), {"anything": 1})
    written = export_model(model, tmp_path / "new" / "model.pt2", {}, {"class_names": NAMES}, "pt2", [2, 3])
    assert json.loads(json.dumps(written.info))["inputs"] == {"dtype": "float32", "shape": ["batch", 2, 3]}
    exported = load_exported(written.path)
    with torch.no_grad():
        assert torch.allclose(exported(torch.ones(4, 2, 3)), model(torch.ones(4, 2, 3)))
    with pytest.raises(ValueError, match="does not say which prior its logits are under, so that it takes no `class_p"):
        exported(torch.ones(4, 2, 3), [1, 1, 1])
