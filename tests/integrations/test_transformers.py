"""Plans in the Trainer of transformers, and prior shift inside its models."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ltaug import METHODS, BayiasLoss, LADELoss, MixUp, PriorShift, TrainingPlan

transformers = pytest.importorskip("transformers")

from ltaug.integrations.transformers import LongTailMixin, LongTailTrainer, fold_prior_shift, trainer_loss  # noqa: E402

COUNTS = [20, 8, 4]
LABELS = torch.tensor([0] * 20 + [1] * 8 + [2] * 4)
IMAGES = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))

pytestmark = pytest.mark.filterwarnings("ignore:.*(pin_memory|num_workers|use_reentrant).*")


class Samples(Dataset):
    """Dictionaries, as data sets for transformers have them."""

    def __init__(self, labels: Tensor = LABELS, name: str = "labels") -> None:
        self.labels, self.name = labels, name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": IMAGES[index], self.name: self.labels[index]}


def vit(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return transformers.ViTForImageClassification(config)


def resnet(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def settings(folder: Path, **more: Any) -> Any:
    wanted = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return transformers.TrainingArguments(str(folder), **{**wanted, **more})


def plan_of(name: str = "mixup", epochs: int = 2, **changes: Any) -> TrainingPlan:
    method = METHODS[name].replace(**changes) if changes else METHODS[name]
    return method.plan(LABELS, epochs=epochs, batch_size=8)


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values() if value.is_floating_point()])


class Constant(MixUp):
    """A mixer without chance."""

    def weights(self, targets: Tensor, partner_targets: Tensor) -> Tensor:
        return torch.full((len(targets),), 0.3)


@pytest.mark.parametrize(
    ("name", "package", "advice"),
    [("transformers", "transformers", r"transformers\[torch\]"), ("lightning", "lightning", "lightning")],
)
def test_a_package_that_is_missing(name: str, package: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (package, "pytorch_lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, each, None)
    monkeypatch.delitem(sys.modules, f"ltaug.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=f"needs .*pip install .{advice}"):
        importlib.import_module(f"ltaug.integrations.{name}")


# --- the loss ---------------------------------------------------------------------------------------------------------


def step_gradient(loss: Callable[..., Tensor], folder: Path, accumulate: int, labels: Tensor = LABELS) -> Tensor:
    """The gradient of one step on 16 samples, cut into so many batches."""
    found = {}

    class Recorder(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
            found["gradient"] = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = settings(
        folder, max_steps=1, per_device_train_batch_size=16 // accumulate, gradient_accumulation_steps=accumulate
    )
    InOrder(vit(), arguments, train_dataset=Samples(labels), compute_loss_func=loss, callbacks=[Recorder()]).train()
    return found["gradient"]


class TestTrainerLoss:
    @pytest.mark.parametrize("kind", ["indices", "ignored", "probabilities"])
    def test_the_gradient_does_not_depend_on_the_accumulation(self, kind: str, tmp_path: Path) -> None:
        labels = LABELS[torch.randperm(32)]
        if kind == "ignored":
            labels[[0, 1, 2, 3, 9]] = -100  # all of the first batch of four
        if kind == "probabilities":
            labels = torch.rand(32, 3).softmax(1)
        loss = BayiasLoss(COUNTS)
        whole, parts = (step_gradient(trainer_loss(loss), tmp_path, k, labels) for k in (1, 4))
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
        model = vit()
        loss(model(pixel_values=IMAGES[:16]).logits, labels[:16]).backward()
        plain = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
        torch.testing.assert_close(whole, plain, rtol=1e-4, atol=1e-6)

    def test_the_obvious_function_multiplies_it(self, tmp_path: Path) -> None:
        loss = BayiasLoss(COUNTS)
        obvious = lambda outputs, labels, **_: loss(outputs.logits, labels)  # noqa: E731
        right = step_gradient(trainer_loss(loss), tmp_path, 4).norm()
        ratio = step_gradient(obvious, tmp_path, 4).norm() / right
        assert ratio == pytest.approx(4.0, rel=1e-3)
        assert step_gradient(trainer_loss(loss), tmp_path, 1).norm() / right == pytest.approx(1.0, rel=1e-3)

    def test_outputs_of_any_form(self) -> None:
        loss, logits, labels = trainer_loss(nn.CrossEntropyLoss()), torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
        output = transformers.modeling_outputs.ImageClassifierOutput(logits=logits)

        class Holder:
            def __init__(self) -> None:
                self.logits = logits

        for outputs in (logits, output, (logits, logits[:1]), {"logits": logits}, Holder()):
            assert loss(outputs, labels) == F.cross_entropy(logits, labels)
            assert loss(outputs, labels, num_items_in_batch=8) == F.cross_entropy(logits, labels) / 2

    def test_a_number_for_each_device_of_data_parallel(self) -> None:
        # The Trainer then multiplies by the number of devices.
        loss, logits, labels = trainer_loss(nn.CrossEntropyLoss()), torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
        assert 2 * loss(logits, labels, num_items_in_batch=torch.tensor([[4.0], [4.0]])) == F.cross_entropy(
            logits, labels
        )

    def test_no_label_that_counts(self) -> None:
        logits = torch.randn(4, 3, requires_grad=True)
        labels = torch.full((4,), -100)
        for criterion in (nn.CrossEntropyLoss(), BayiasLoss(COUNTS), LADELoss(COUNTS)):
            logits.grad = None
            loss = trainer_loss(criterion)(logits, labels, num_items_in_batch=torch.tensor(8))
            loss.backward()
            assert loss == 0
            assert bool((logits.grad == 0).all())

    @pytest.mark.parametrize("outputs", [{"loss": 1.0}, (), (torch.zeros(()), torch.zeros(2, 3)), object()])
    def test_no_logits(self, outputs: Any) -> None:
        with pytest.raises(ValueError, match=r"must return logits \[N, C, ...\]"):
            trainer_loss(nn.CrossEntropyLoss())(outputs, LABELS)

    def test_no_labels(self) -> None:
        with pytest.raises(ValueError, match="`labels` are missing"):
            trainer_loss(nn.CrossEntropyLoss())(torch.zeros(2, 3), None)

    @pytest.mark.parametrize("criterion", [3, nn.CrossEntropyLoss, nn.CrossEntropyLoss(reduction="sum")])
    def test_no_mean(self, criterion: Any) -> None:
        with pytest.raises(ValueError, match="`criterion` must be a loss that returns the mean"):
            trainer_loss(criterion)


# --- the Trainer ------------------------------------------------------------------------------------------------------


class Watched(LongTailTrainer):
    """Notes what the model is trained on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[tuple[int, int, Tensor]] = []

    def _mixed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        found = super()._mixed(inputs)
        self.seen.append((self.state.global_step, self.plan.epoch, found["labels"]))
        return found


def written_out(plan: TrainingPlan, model: nn.Module, steps: list[tuple[int, int]], size: int = 8) -> nn.Module:
    """The same training as a plain loop; steps are (epoch, first sample)."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()
    for epoch, start in steps:
        plan.set_epoch(epoch)
        indices = plan.sampler.indices()[start : start + size]
        batch = [(IMAGES[each], LABELS[each]) for each in (indices.T if indices.ndim == 2 else [indices])]
        inputs, targets = plan.mix(batch if len(batch) == 2 else batch[0])
        optimizer.zero_grad()
        plan.criterion(model(pixel_values=inputs).logits, targets).backward()
        optimizer.step()
    return model


def test_losses_that_the_trainer_would_count_wrongly() -> None:
    with pytest.raises(ValueError, match=r"sum of its `weight`.*ClassWeightedLoss"):
        trainer_loss(nn.CrossEntropyLoss(weight=torch.ones(3)))
    with pytest.raises(ValueError, match=r"leaves out the label 255, .* -100 in the data set"):
        trainer_loss(BayiasLoss([3, 2, 1], ignore_index=255))
    loss = trainer_loss(BayiasLoss([3, 2, 1], ignore_index=-100))
    assert loss(torch.zeros(2, 3), torch.tensor([0, -100]), num_items_in_batch=1).isfinite()
    with pytest.raises(ValueError, match="rows of zeros"):
        loss(torch.zeros(1, 3), torch.zeros(1, 3))


class TestLongTailTrainer:
    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("name", ["erm", "unimix_bayias", "drs"])
    def test_is_the_loop_written_out(self, name: str, workers: int, tmp_path: Path) -> None:
        plan, same = (plan_of(name) for _ in range(2))
        if plan.mixer is not None:
            plan.mixer, same.mixer = Constant(3), Constant(3)
        model = vit()
        wanted = written_out(same, copy.deepcopy(model), [(e, k) for e in range(2) for k in range(0, 32, 8)])
        LongTailTrainer(
            model, settings(tmp_path, dataloader_num_workers=workers), train_dataset=Samples(), plan=plan
        ).train()
        torch.testing.assert_close(weights_of(model), weights_of(wanted), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("mixed", [True, False])
    def test_the_training_does_not_depend_on_the_accumulation(self, mixed: bool, tmp_path: Path) -> None:
        # Batches of 6: the last ones of an epoch are smaller, and there are fewer of them.
        found = []
        for size, accumulate in ((12, 1), (6, 2), (3, 4)):
            plan = plan_of("mixup_bayias" if mixed else "bayias")
            if mixed:
                plan.mixer = Constant(3)
            arguments = settings(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulate)
            trainer = LongTailTrainer(vit(), arguments, train_dataset=Samples(), plan=plan)
            trainer.train()
            assert trainer.state.global_step == 6
            found.append(weights_of(trainer.model))
        for each in found[1:]:
            torch.testing.assert_close(each, found[0], rtol=1e-4, atol=1e-6)

    def test_phases_follow_the_epochs(self, tmp_path: Path) -> None:
        plan = plan_of("unimix_bayias", epochs=10)  # mixes for nine
        trainer = Watched(vit(), settings(tmp_path, num_train_epochs=10), train_dataset=Samples(), plan=plan)
        trainer.train()
        assert [epoch for _, epoch, _ in trainer.seen] == [epoch for epoch in range(10) for _ in range(4)]
        assert [labels.is_floating_point() for _, _, labels in trainer.seen] == [True] * 36 + [False] * 4

    def test_evaluation_is_untouched(self, tmp_path: Path) -> None:
        plan = plan_of("unimix_bayias")
        trainer = LongTailTrainer(vit(), settings(tmp_path), train_dataset=Samples(), eval_dataset=Samples(), plan=plan)
        plain = transformers.Trainer(trainer.model, settings(tmp_path), eval_dataset=Samples())
        assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])
        trainer.train()
        with torch.no_grad():
            loss = F.cross_entropy(trainer.model.eval()(pixel_values=IMAGES).logits, LABELS)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), rel=1e-4)

    @pytest.mark.parametrize(
        "name",
        [name for name, method in METHODS.items() if method.single_label and "between_class" not in method.mixer],
    )
    def test_every_method_for_images_trains(self, name: str, tmp_path: Path) -> None:
        method = METHODS[name]
        if name == "manifold_mixup":
            method = method.replace(manifold_layers=("input", "resnet.encoder.stages.0"))
        plan = method.plan(LABELS, epochs=1, batch_size=8)
        model = resnet()
        arguments = settings(tmp_path, num_train_epochs=1, max_steps=2)
        make = lambda: LongTailTrainer(model, arguments, train_dataset=Samples(), plan=plan)  # noqa: E731
        if not method.trained:
            with pytest.raises(ValueError, match="nothing to train"):
                make()
            return
        trainer = make()
        before = weights_of(model).clone()
        trainer.train()
        after = weights_of(model)
        assert bool(after.isfinite().all())
        assert not torch.equal(after, before)

    @pytest.mark.parametrize("name", ["mixup_bayias", "distribution_balanced"])
    def test_several_labels_a_sample(self, name: str, tmp_path: Path) -> None:
        rows = torch.stack([LABELS == 0, LABELS > 0, LABELS == 2], 1).float()
        samples = [{"pixel_values": image, "labels": row} for image, row in zip(IMAGES, rows, strict=True)]
        model, plan = resnet(), METHODS[name].plan(rows, epochs=1, batch_size=8)
        arguments = settings(tmp_path, num_train_epochs=1, max_steps=2)
        trainer = LongTailTrainer(model, arguments, train_dataset=samples, eval_dataset=samples, plan=plan)
        trainer.train()
        assert model.config.problem_type == "multi_label_classification"
        with torch.no_grad():
            loss = F.binary_cross_entropy_with_logits(model.eval()(pixel_values=IMAGES).logits, rows)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), rel=1e-4)
        with pytest.raises(
            ValueError, match=r"'multi_label_classification', but the samples of the plan have one class"
        ):
            LongTailTrainer(model, arguments, train_dataset=Samples(), plan=plan_of("erm", epochs=1))

    def test_a_second_stage(self, tmp_path: Path) -> None:
        plan = plan_of("mislas", epochs=1)
        model = resnet()
        trainer = LongTailTrainer(model, settings(tmp_path, num_train_epochs=1), train_dataset=Samples(), plan=plan)
        backbone = copy.deepcopy(model.resnet.state_dict())
        trainer.train()
        changed = {name for name, value in model.resnet.state_dict().items() if not torch.equal(value, backbone[name])}
        assert changed
        assert all("running" in name or "num_batches" in name for name in changed)  # `batch_norm: shift`
        groups = {group.get("lr_scale", 1.0): len(group["params"]) for group in trainer.optimizer.param_groups}
        assert set(groups) == {1.0, plan.method.delta_lr_ratio}
        rates = {group.get("lr_scale", 1.0): group["lr"] for group in trainer.optimizer.param_groups}
        assert rates[0.2] == pytest.approx(0.2 * rates[1.0])
        plan.fold(model).save_pretrained(tmp_path / "folded")
        again = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "folded").eval()
        torch.testing.assert_close(again(IMAGES).logits, model.eval()(IMAGES).logits)

    def test_batch_norm_stays_fixed(self, tmp_path: Path) -> None:
        model = resnet()
        before = copy.deepcopy(model.resnet.state_dict())
        LongTailTrainer(
            model, settings(tmp_path, num_train_epochs=1), train_dataset=Samples(), plan=plan_of("crt", epochs=1)
        ).train()
        assert all(torch.equal(value, before[name]) for name, value in model.resnet.state_dict().items())

    @pytest.mark.parametrize("after", [2, 4, 6])
    def test_a_resumed_training_is_the_uninterrupted_one(self, after: int, tmp_path: Path) -> None:
        def trained(folder: str, **more: Any) -> Any:
            arguments = settings(
                tmp_path / folder, num_train_epochs=3, save_strategy="steps", save_steps=after, optim="adamw_torch"
            )
            plan = plan_of("lob_mixup_deferred", epochs=3, rebalance_from=0.4)
            trainer = Watched(vit(), arguments, train_dataset=Samples(), plan=plan)
            trainer.train(**more)
            return trainer

        whole = trained("whole")
        torch.manual_seed(9)
        part = trained("part", resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{after}"))
        assert [each[:2] for each in part.seen] == [each[:2] for each in whole.seen[after:]]
        torch.testing.assert_close(weights_of(part.model), weights_of(whole.model), rtol=0, atol=0)

    def test_the_best_checkpoint_is_loaded(self, tmp_path: Path) -> None:
        # The learning rate makes it worse and worse.
        more = {
            "save_strategy": "epoch",
            "eval_strategy": "epoch",
            "load_best_model_at_end": True,
            "learning_rate": 3.0,
        }
        trainer = LongTailTrainer(
            vit(), settings(tmp_path, **more), train_dataset=Samples(), eval_dataset=Samples(), plan=plan_of("drs")
        )
        trainer.train()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric)
        again = transformers.ViTForImageClassification.from_pretrained(trainer.state.best_model_checkpoint)
        assert torch.equal(weights_of(again), weights_of(trainer.model))

    def test_a_model_that_was_loaded_is_saved_as_it_came(self, tmp_path: Path) -> None:
        # Checkpoints have the present names, what is saved after all those of the release that the model came from.
        vit().save_pretrained(tmp_path / "first")
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "first")
        arguments = settings(tmp_path / "run", save_strategy="epoch")
        trainer = LongTailTrainer(model, arguments, train_dataset=Samples(), plan=plan_of())
        trainer.train()
        trainer.save_model(str(tmp_path / "last"))
        names = [
            set(load_file(tmp_path / each / "model.safetensors")) for each in ("first", "last", "run/checkpoint-8")
        ]
        assert names[0] == names[1]
        assert names[2] == set(model.state_dict())

    def test_a_checkpoint_of_another_model(self, tmp_path: Path) -> None:
        arguments = settings(tmp_path, save_strategy="epoch")
        LongTailTrainer(vit(), arguments, train_dataset=Samples(), plan=plan_of()).train()
        other = LongTailTrainer(resnet(), arguments, train_dataset=Samples(), plan=plan_of())
        with pytest.raises(ValueError, match="The checkpoint does not fit the model"):
            other.train(resume_from_checkpoint=True)

    def test_a_checkpoint_knows_its_plan(self, tmp_path: Path) -> None:
        arguments = settings(tmp_path, save_strategy="epoch")
        LongTailTrainer(vit(), arguments, train_dataset=Samples(), plan=plan_of("bayias")).train()
        checkpoint = str(tmp_path / "checkpoint-4")
        other = LongTailTrainer(vit(), arguments, train_dataset=Samples(), plan=plan_of("erm"))
        with pytest.raises(ValueError, match=r"made by a plan with method \{'loss': 'prior_corrected'\}"):
            other.train(resume_from_checkpoint=checkpoint)
        path = Path(checkpoint) / "trainer_state.json"
        state = json.loads(path.read_text())
        del state["stateful_callbacks"]["LongTailPlan"]
        path.write_text(json.dumps(state))
        same = LongTailTrainer(vit(), arguments, train_dataset=Samples(), plan=plan_of("bayias"))
        with pytest.raises(ValueError, match="made without a plan"):
            same.train(resume_from_checkpoint=checkpoint)

    def test_a_trainer_of_ones_own(self, tmp_path: Path) -> None:
        class Careless(transformers.Trainer):
            def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> Tensor:
                return model(**inputs).loss

        class Mine(LongTailMixin, Careless):
            pass

        # Labels that are probabilities must not become the several labels of a sample.
        trainer = Mine(vit(), settings(tmp_path), train_dataset=Samples(), plan=plan_of("mixup"))
        with pytest.raises(ValueError, match="batch_size"):
            trainer.train()
        assert trainer.model.config.problem_type == "single_label_classification"

    def test_names_of_columns(self, tmp_path: Path) -> None:
        arguments = settings(tmp_path, remove_unused_columns=False)
        named = LongTailTrainer(
            vit(), arguments, train_dataset=Samples(name="species"), plan=plan_of(), label_name="species"
        )
        named.train()
        plain = LongTailTrainer(vit(), settings(tmp_path), train_dataset=Samples(name="label"), plan=plan_of())
        plain.train()
        assert torch.equal(weights_of(named.model), weights_of(plain.model))
        for options, message in (
            ({"label_name": "kind"}, "`labels` is not in the batch, which holds pixel_values, species.*`label_name=`"),
            ({"input_name": "x"}, "`x` is not in the batch.*`input_name=`"),
        ):
            wrong = LongTailTrainer(vit(), arguments, train_dataset=Samples(name="species"), plan=plan_of(), **options)
            with pytest.raises(ValueError, match=message):
                wrong.train()

    def test_sounds_are_padded_with_their_partners(self, tmp_path: Path) -> None:
        lengths = torch.randint(5, 20, (32,))

        class Sounds(Dataset):
            def __len__(self) -> int:
                return 32

            def __getitem__(self, index: int) -> dict[str, Any]:
                return {"input_values": torch.ones(int(lengths[index])), "labels": LABELS[index]}

        class Net(nn.Module):
            main_input_name = "input_values"

            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(1, 3)

            def forward(self, input_values: Tensor, labels: Tensor | None = None) -> tuple[Tensor]:
                return (self.fc(input_values.mean(1, keepdim=True)),)

        def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
            padded = nn.utils.rnn.pad_sequence([each["input_values"] for each in samples], batch_first=True)
            return {"input_values": padded, "labels": torch.stack([each["labels"] for each in samples])}

        plan = METHODS["bc"].plan(LABELS, epochs=2, sample_rate=16000)
        plan.mixer = MixUp(3)
        LongTailTrainer(Net(), settings(tmp_path), data_collator=collate, train_dataset=Sounds(), plan=plan).train()

    def test_a_mask_beside_the_inputs(self, tmp_path: Path) -> None:
        def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = torch.utils.data.default_collate(samples)
            return {**batch, "attention_mask": torch.ones(len(samples), 5)}

        make = lambda name: LongTailTrainer(  # noqa: E731
            vit(), settings(tmp_path), data_collator=collate, train_dataset=Samples(), plan=plan_of(name)
        )
        with pytest.raises(ValueError, match="holds `attention_mask` beside `pixel_values`"):
            make("mixup").train()
        make("bayias").get_train_dataloader()  # nothing is mixed


class TestDatasets:
    @pytest.fixture
    def table(self) -> Any:
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_dict(
            {"pixel_values": IMAGES.tolist(), "label": LABELS.tolist(), "name": list("x" * 32)}
        ).with_format("torch")

    def test_trains_as_others_do(self, table: Any, tmp_path: Path) -> None:
        trainers = [
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=each, plan=plan_of("unimix_bayias"))
            for each in (table, Samples())
        ]
        for trainer in trainers:
            torch.manual_seed(0)
            trainer.train()
        assert torch.equal(*(weights_of(trainer.model) for trainer in trainers))

    def test_a_transform(self, table: Any, tmp_path: Path) -> None:
        changed = table.with_transform(
            lambda rows: {"pixel_values": torch.tensor(rows["pixel_values"]), "labels": rows["label"]}
        )
        with pytest.raises(ValueError, match=r"has a transform.*Set `remove_unused_columns=False`"):
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=changed, plan=plan_of())
        LongTailTrainer(
            vit(), settings(tmp_path, remove_unused_columns=False), train_dataset=changed, plan=plan_of()
        ).train()

    def test_another_order_than_the_labels(self, table: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="other labels than those in column 'label'"):
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=table.shuffle(seed=1), plan=plan_of())

    def test_another_order_behind_a_transform(self, table: Any, tmp_path: Path) -> None:
        def anew(rows: dict[str, Any]) -> dict[str, Any]:
            return {"pixel_values": torch.tensor(rows["pixel_values"]), "labels": [k % 3 for k in rows["label"]]}

        numbered = table.map(lambda row: {"label": row["label"] + 3}).with_transform(anew)
        arguments = settings(tmp_path, remove_unused_columns=False)
        LongTailTrainer(vit(), arguments, train_dataset=numbered, plan=plan_of())
        with pytest.raises(ValueError, match="other labels than those in column 'label'"):
            LongTailTrainer(vit(), arguments, train_dataset=numbered.shuffle(seed=1), plan=plan_of())

    def test_a_stream(self, table: Any, tmp_path: Path) -> None:
        arguments = settings(tmp_path, max_steps=8)
        with pytest.raises(ValueError, match="`train_dataset` must have a length"):
            LongTailTrainer(vit(), arguments, train_dataset=table.to_iterable_dataset(), plan=plan_of())


class TestOrder:
    """Labels that a data set of torch keeps beside its samples."""

    def make(self, folder: Path, dataset: Any, plan: TrainingPlan | None = None) -> None:
        LongTailTrainer(vit(), settings(folder), train_dataset=dataset, plan=plan or plan_of())

    def test_another_one(self, tmp_path: Path) -> None:
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).tolist()
        for dataset in (torch.utils.data.Subset(Samples(), order), Samples(LABELS[order])):
            with pytest.raises(ValueError, match="other labels than those of the training set, or in another order"):
                self.make(tmp_path, dataset)

    def test_another_one_of_several_labels(self, tmp_path: Path) -> None:
        rows = F.one_hot(LABELS, 3)
        rows[5:15, 2] = 1
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
        self.make(tmp_path, Samples(rows), METHODS["distribution_balanced"].plan(rows, epochs=2))
        with pytest.raises(ValueError, match="other labels than those of the training set, or in another order"):
            self.make(tmp_path, Samples(rows[order]), METHODS["distribution_balanced"].plan(rows, epochs=2))

    def test_what_is_not_known_to_be_the_label_is_no_error(self, tmp_path: Path) -> None:
        """A class that numbers its labels anew; names by the name of labels; an index as a third part; a property."""

        class Anew(Samples):
            def __getitem__(self, index: int) -> Any:
                return {"pixel_values": IMAGES[index], "labels": self.labels[index] - 3}

        class Raises(Samples):
            labels = property(lambda self: explode())  # type: ignore[assignment]

            def __init__(self) -> None:
                pass

            def __len__(self) -> int:
                return 32

        def explode() -> Any:
            raise RuntimeError("not now")

        names = Samples(LABELS)
        names.labels = list("abc")  # type: ignore[assignment]
        names.__class__ = type("Named", (Samples,), {"__len__": lambda self: 32})
        third = torch.utils.data.TensorDataset(IMAGES, LABELS, torch.arange(32))
        for dataset in (Anew(LABELS + 3), Raises(), names, third):
            self.make(tmp_path, dataset)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_train_epochs": 3}, "`plan` is of 2 epochs, but `num_train_epochs` comes to 3"),
            ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` changes the loss"),
            ({"train_sampling_strategy": "group_by_length"}, "chooses the order of the samples"),
            ({"train_sampling_strategy": "sequential"}, "chooses the order of the samples"),
        ],
    )
    def test_settings_of_the_trainer(self, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
        if "train_sampling_strategy" in arguments and not hasattr(settings(tmp_path), "train_sampling_strategy"):
            arguments = {"group_by_length": True}
        with pytest.raises(ValueError, match=message):
            LongTailTrainer(vit(), settings(tmp_path, **arguments), train_dataset=Samples(), plan=plan_of())

    def test_steps_of_other_epochs(self, tmp_path: Path) -> None:
        trainer = LongTailTrainer(vit(), settings(tmp_path, max_steps=9), train_dataset=Samples(), plan=plan_of())
        with pytest.raises(ValueError, match="of 2 epochs, but `max_steps` comes to 3"):
            trainer.train()

    def test_a_loss_beside_the_plans(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`compute_loss_func` and `plan` both"):
            LongTailTrainer(vit(), settings(tmp_path), compute_loss_func=len, train_dataset=Samples(), plan=plan_of())

    def test_a_model_that_is_made_anew(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`model_init` makes a model anew"):
            LongTailTrainer(args=settings(tmp_path), model_init=lambda: vit(), train_dataset=Samples(), plan=plan_of())

    def test_several_labels_a_sample(self, tmp_path: Path) -> None:
        model = vit()
        model.config.problem_type = "multi_label_classification"
        with pytest.raises(ValueError, match=r"`config.problem_type` is 'multi_label_classification'"):
            LongTailTrainer(model, settings(tmp_path), train_dataset=Samples(), plan=plan_of())

    def test_other_samples_than_labels(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="labels of 32 samples, but the training set has 31"):
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=Samples(LABELS[1:]), plan=plan_of())

    def test_other_batches_than_the_plans(self, tmp_path: Path) -> None:
        plan = METHODS["unimix_bayias_official"].plan(LABELS, epochs=2, batch_size=16)
        with pytest.raises(
            ValueError, match=r"batches of 16 samples a process, but the Trainer's have 8.*batch_size=8"
        ):
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=Samples(), plan=plan)

    def test_an_optimiser_of_what_is_replaced(self, tmp_path: Path) -> None:
        model = vit()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        make = lambda plan: LongTailTrainer(  # noqa: E731
            model, settings(tmp_path), train_dataset=Samples(), optimizers=(optimizer, None), plan=plan
        )
        with pytest.raises(ValueError, match=r"Call `plan.attach\(model\)` before you make the optimiser"):
            make(plan_of("ldam"))
        make(plan_of("bayias")).train()

    def test_learning_rates_that_an_optimiser_does_not_know(self, tmp_path: Path) -> None:
        model, plan = resnet(), plan_of("mislas")
        plan.attach(model)
        groups = plan.parameter_groups(model)
        for given, fine in ((model.parameters(), False), (groups, True)):
            optimizer = torch.optim.SGD(given, 0.1)
            trainer = LongTailTrainer(
                model, settings(tmp_path), train_dataset=Samples(), optimizers=(optimizer, None), plan=plan
            )
            if fine:
                trainer.train()
            else:
                with pytest.raises(ValueError, match="at another learning rate, which `optimizers` does not know of"):
                    trainer.train()

    def test_another_model_than_the_plans(self, tmp_path: Path) -> None:
        plan = plan_of("ldam")
        plan.attach(resnet())
        with pytest.raises(ValueError, match="`plan` is attached to another model"):
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=Samples(), plan=plan)

    def test_another_sampler(self, tmp_path: Path) -> None:
        class Other(LongTailTrainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return torch.utils.data.SequentialSampler(Samples())

        trainer = Other(vit(), settings(tmp_path), train_dataset=Samples(), plan=plan_of())
        with pytest.raises(ValueError, match="must be drawn by the plan's sampler"):
            trainer.train()

    def test_what_is_no_plan(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`plan` must be a plan"):
            LongTailTrainer(vit(), settings(tmp_path), train_dataset=Samples(), plan=METHODS["erm"])  # type: ignore[arg-type]


# --- several processes ------------------------------------------------------------------------------------------------

PROCESSES = {
    "loss": (True, False, 2),
    "plain": (False, False, 2),
    "mixed": (False, True, 1),
    "resumed": (False, True, 2),
}


def in_processes(folder: Path, loss: bool, mixed: bool, accumulate: int) -> nn.Module:
    """Train on batches of eight, however many processes share them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    size = 8 // count // accumulate
    arguments = settings(
        folder,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulate,
        ddp_backend="gloo" if count > 1 else None,
        save_strategy="steps" if folder.name == "resumed" else "no",
        save_steps=3,
    )
    plan = plan_of("mixup_bayias" if mixed else "bayias")
    if mixed:
        plan.mixer = Constant(3)
    trainer: Any
    if loss:

        class Drawn(transformers.Trainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return plan.sampler

        labels = Samples(F.one_hot(LABELS, 3).float())
        trainer = Drawn(vit(), arguments, train_dataset=labels, compute_loss_func=trainer_loss(BayiasLoss(COUNTS)))
    else:
        trainer = LongTailTrainer(vit(), arguments, train_dataset=Samples(), plan=plan)
    if folder.name == "resumed":  # in the middle of the second epoch
        trainer.train()
        trainer = LongTailTrainer(vit(1), arguments, train_dataset=Samples(), plan=plan)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-6"))
    else:
        trainer.train()
    return trainer.model


def all_in_processes(folder: Path) -> None:
    for name, how in PROCESSES.items():
        trained = weights_of(in_processes(folder / name, *how))
        torch.save(trained, folder / f"{name}-{os.environ['RANK']}.pt")


def test_two_processes_train_as_one(tmp_path: Path, on_two_ranks: Callable[..., None]) -> None:
    on_two_ranks(all_in_processes, tmp_path)
    for name, how in PROCESSES.items():
        wanted = weights_of(in_processes(tmp_path / "one" / name.replace("resumed", "whole"), *how))
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt")
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=name)


# --- the prior of a finished model ------------------------------------------------------------------------------------


class TestFoldPriorShift:
    def test_is_prior_shift(self) -> None:
        model = vit().eval()
        wanted = PriorShift(copy.deepcopy(model), COUNTS, [1, 2, 3], strength=0.7)
        assert fold_prior_shift(model, COUNTS, [1, 2, 3], strength=0.7) is model
        torch.testing.assert_close(
            model(pixel_values=IMAGES).logits.softmax(1), wanted(pixel_values=IMAGES).logits.softmax(1)
        )

    def test_a_saved_model_is_an_ordinary_one(self, tmp_path: Path) -> None:
        pytest.importorskip("torchvision")
        from PIL import Image

        model = vit().eval()
        shifted = fold_prior_shift(copy.deepcopy(model), COUNTS)
        shifted.save_pretrained(tmp_path)
        transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
        classify = transformers.pipeline("image-classification", model=str(tmp_path), device="cpu")
        image = Image.fromarray((255 * IMAGES[0]).byte().permute(1, 2, 0).numpy())
        found = {each["label"]: each["score"] for each in classify(image)}
        inputs = classify.image_processor(image, return_tensors="pt")
        wanted = PriorShift(model, COUNTS)(**inputs).logits.softmax(1)[0]
        assert [found[f"LABEL_{k}"] for k in range(3)] == pytest.approx(wanted.tolist(), abs=1e-5)
        plain = model(**inputs).logits.softmax(1)[0]
        assert wanted[2] > plain[2] + 0.05

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_nothing_is_added_twice(self, dtype: torch.dtype, tmp_path: Path) -> None:
        model = vit().to(dtype)
        before = model.classifier.bias.detach().clone()
        fold_prior_shift(model, COUNTS)
        with pytest.raises(ValueError, match=r"in `model.config.prior_shift`. Leave it out to move the model on"):
            fold_prior_shift(model, COUNTS)
        once = model.classifier.bias.detach().clone()
        fold_prior_shift(model)
        assert torch.equal(model.classifier.bias, once)
        model.save_pretrained(tmp_path)
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path, dtype=dtype)
        with pytest.raises(ValueError, match="Leave it out to move the model on"):
            fold_prior_shift(model, COUNTS)
        fold_prior_shift(model, target_prior=[3, 2, 1])
        fresh = fold_prior_shift(vit().to(dtype), COUNTS, [3, 2, 1])
        assert torch.equal(model.classifier.bias, fresh.classifier.bias)
        fold_prior_shift(model, strength=0)
        assert torch.equal(model.classifier.bias, before)
        assert not hasattr(model.config, "prior_shift")

    def test_a_cast_costs_nothing(self, tmp_path: Path) -> None:
        fold_prior_shift(vit(), COUNTS).save_pretrained(tmp_path)
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
        wanted = fold_prior_shift(vit(), COUNTS, [1, 1, 5]).classifier.bias
        assert torch.equal(fold_prior_shift(model, target_prior=[1, 1, 5]).classifier.bias, wanted.bfloat16())

    def test_a_bias_that_was_trained_since(self, tmp_path: Path) -> None:
        model = fold_prior_shift(vit(), COUNTS)
        with pytest.raises(ValueError, match=r"carries a prior shift.*strength=0"):
            LongTailTrainer(model, settings(tmp_path), train_dataset=Samples(), plan=plan_of())
        with torch.no_grad():
            model.classifier.bias[0] += 1e-3
        for options in ({}, {"strength": 0}):
            with pytest.raises(ValueError, match=r"no longer what `model.config.prior_shift` says"):
                fold_prior_shift(model, **options)

    def test_another_head(self, tmp_path: Path) -> None:
        fold_prior_shift(vit(), COUNTS).save_pretrained(tmp_path)
        model = transformers.ViTForImageClassification.from_pretrained(
            tmp_path, num_labels=5, ignore_mismatched_sizes=True
        )
        with pytest.raises(ValueError, match="no longer what"):
            fold_prior_shift(model)

    def test_other_models(self) -> None:
        model = resnet()
        bias = model.classifier[1].bias.detach().clone()
        fold_prior_shift(model, [1, 1, 1])
        assert torch.allclose(model.classifier[1].bias, bias)
        fold_prior_shift(model, target_prior=[4, 1, 1], classifier="classifier.1")
        assert model.classifier[1].bias[0] > bias[0]

    def test_errors(self) -> None:
        model = vit()
        for arguments, message in (
            ((nn.Linear(3, 3), COUNTS), "must be a model of transformers.*`ltaug.PriorShift`"),
            ((model,), "`logits_prior` is needed"),
            ((model, [1, 2]), "`logits_prior` must hold one number for each of 3 classes, but holds 2"),
            ((model, [1, 2, 0]), "`logits_prior`"),
            ((model, COUNTS, [1, 1]), "`target_prior` must hold one number for each of the 3"),
            ((model, COUNTS, None, float("nan")), "`strength` must be finite"),
        ):
            with pytest.raises(ValueError, match=message):
                fold_prior_shift(*arguments)
        before = vit().classifier.bias
        assert torch.equal(model.classifier.bias, before)
        assert not hasattr(model.config, "prior_shift")
        model.classifier = nn.Linear(12, 3, bias=False)
        with pytest.raises(ValueError, match=r"'classifier' has no bias.*`ltaug.PriorShift`"):
            fold_prior_shift(model, COUNTS)
