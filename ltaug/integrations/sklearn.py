"""scikit-learn: any classifier, corrected for another class mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

try:
    from sklearn import get_config
    from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone, is_classifier
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import (
        AdaBoostClassifier,
        BaggingClassifier,
        ExtraTreesClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
        StackingClassifier,
    )
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.svm import SVC, NuSVC
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.utils import get_tags
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError("ltaug.integrations.sklearn needs scikit-learn 1.6 or later: pip install scikit-learn") from error

from ltaug.labelshift import estimate_prior

__all__ = ["PriorCorrectedClassifier"]

Floats = NDArray[np.float64]

WEIGHTED = (LogisticRegression, SGDClassifier, HistGradientBoostingClassifier)
"""Their probabilities minimise a weighted log loss: they are under the prior that the class weights make."""
UNWEIGHTED = (SVC, NuSVC, DecisionTreeClassifier, RandomForestClassifier, ExtraTreesClassifier)
"""Weights move their boundaries, but not, or not by as much, their probabilities: Platt's fit counts samples, and so
do the leaves of grown trees, which hold one class whatever it weighs."""


class PriorCorrectedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    r"""A classifier whose probabilities are corrected from the training set's class mix to another one.

    .. math:: p'(y | x) \propto p(y | x) \, (\pi'_y / \pi_y)^{strength}

    with the prior pi that the fitted probabilities are under and pi' of where they are used (Saerens et al., Neural
    Computation 2002, https://doi.org/10.1162/089976602753284446). Nothing is fitted but the classifier.

    Forests, bagging and nearest neighbours count votes: a rare class often has none, and no factor lifts a zero. There
    one more vote, split as pi is, is counted first: (T p + pi) / (T + 1) with T votes.

    Args:
        estimator: a classifier with ``predict_proba``. A pipeline, a ``GridSearchCV`` and a ``FrozenEstimator`` are
            ones, too.
        target_prior: "uniform"; "estimate", by expectation maximisation on the very samples that are predicted
            (:func:`ltaug.estimate_prior`: of one row nothing can be estimated); "train", the training labels weighted
            by ``sample_weight``, which corrects nothing but the classifier's own class weights; numbers in the order of
            ``classes_``; or numbers by class, in a dictionary or a pandas Series.
        source_prior: the prior that the classifier's probabilities are under, in the same forms but "estimate". By
            default that of the training labels, weighted by ``sample_weight``; and by the ``class_weight`` of a
            ``LogisticRegression``, ``SGDClassifier`` of log loss, or ``HistGradientBoostingClassifier``, alone or at
            the end of a pipeline or search, so that it is uniform with ``class_weight="balanced"``. It must be given
            for all others that have class weights or priors, themselves or in an estimator inside them; where support
            vector machines, trees or forests have weights of samples; for AdaBoost and imbalanced-learn, which balance
            by themselves; and for a ``FrozenEstimator``, whose training labels are not those of ``fit``.
        strength: exponent of the correction, from 0; 1 is Bayes' rule.

    Attributes:
        estimator_: the fitted classifier.
        classes_: its classes.
        source_prior_: pi, float64 [C].

    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = np.array([[0.0], [0.1], [0.2], [0.3], [1.0]]), np.array([0, 0, 0, 0, 1])
    >>> model = LogisticRegression()
    >>> model.fit(X, y).predict([[0.6]]), PriorCorrectedClassifier(model).fit(X, y).predict([[0.6]])
    (array([0]), array([1]))
    """

    def __init__(
        self,
        estimator: Any,
        target_prior: str | ArrayLike | Mapping[Any, float] = "uniform",
        *,
        source_prior: str | ArrayLike | Mapping[Any, float] = "train",
        strength: float = 1.0,
    ) -> None:
        self.estimator = estimator
        self.target_prior = target_prior
        self.source_prior = source_prior
        self.strength = strength

    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, **fit_params: Any
    ) -> PriorCorrectedClassifier:
        """Fit the classifier.

        Args:
            X: samples [N, ...].
            y: their classes, [N].
            sample_weight: weights [N], for classifiers that take them; they weight the prior, too. A pipeline takes
                them by the name of its last step, ``logisticregression__sample_weight``.
            fit_params: further arguments of the classifier's ``fit``, as they are, or with metadata routing as it says.

        Raises:
            ValueError: a prior does not fit the classes, the classifier gives no probabilities, or ``source_prior``
                is not known.
        """
        if not isinstance(self.strength, int | float | np.number) or not 0.0 <= self.strength < np.inf:
            raise ValueError(f"`strength` must be a number from 0, but is {self.strength!r}.")
        routed = fit_params and get_config()["enable_metadata_routing"]
        passed = dict(process_routing(self, "fit", **fit_params).estimator.fit) if routed else fit_params
        if sample_weight is not None:
            passed["sample_weight"] = sample_weight
        self.estimator_ = clone(self.estimator).fit(X, y, **passed)
        if not hasattr(self.estimator_, "predict_proba"):
            raise ValueError(
                f"`estimator` must give probabilities (`predict_proba`), which {type(self.estimator_).__name__} does "
                "not. Wrap it in `sklearn.calibration.CalibratedClassifierCV`."
            )
        self.classes_ = self.estimator_.classes_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        name, others = _weights_name(self.estimator_, passed)
        weights = passed.get(name)
        y = np.asarray(y).ravel()
        self.train_prior_ = self._train_prior(y, weights)
        if isinstance(self.source_prior, str) and self.source_prior == "train":
            self.source_prior_ = self._weighted_prior(y, weights, others)
        else:
            self.source_prior_ = self._prior("source_prior", self.source_prior)
        self._prior("target_prior", self.target_prior)  # raises now if it will not do
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Corrected probabilities of samples, float64 [N, C], in the order of ``classes_``."""
        check_is_fitted(self)
        p = self._counted(np.asarray(self.estimator_.predict_proba(X), dtype=np.float64))
        source = self.source_prior_
        if isinstance(self.target_prior, str) and self.target_prior == "estimate":
            logits = torch.from_numpy(np.log(np.maximum(p, np.finfo(np.float64).tiny)))
            target = np.asarray(estimate_prior(logits, torch.from_numpy(source)))
        else:
            target = self._prior("target_prior", self.target_prior)
        shifted = p * (target / source) ** self.strength
        total = shifted.sum(1, keepdims=True)
        # Only classes that the target excludes had a probability: there is nothing to say but the target itself.
        return np.where(total > 0.0, shifted / np.where(total > 0.0, total, 1.0), target)

    def predict_log_proba(self, X: Any) -> Floats:
        """Logarithms of the corrected probabilities of samples, float64 [N, C]; -inf for classes that cannot be."""
        with np.errstate(divide="ignore"):
            logs: Floats = np.log(self.predict_proba(X))
        return logs

    def predict(self, X: Any) -> NDArray[Any]:
        """Most probable classes of samples after the correction, [N]."""
        check_is_fitted(self)
        chosen: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
        return chosen

    def get_metadata_routing(self) -> MetadataRouter:
        """Say that what ``fit`` is given goes to the classifier's ``fit``."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        router = MetadataRouter(owner=type(self).__name__).add_self_request(self)
        return router.add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self) -> Any:
        tags, mine = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags = mine.input_tags
        tags.classifier_tags.multi_class = mine.classifier_tags is None or mine.classifier_tags.multi_class
        return tags

    def _train_prior(self, y: NDArray[Any], sample_weight: ArrayLike | None) -> Floats:
        """Frequencies of the classes in training, weighted by sample."""
        places = np.searchsorted(self.classes_, y)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if strange := sorted(set(y.tolist()) - set(self.classes_.tolist())):  # a frozen classifier knows others
            raise ValueError(f"`y` must hold classes of the classifier, but holds {strange[0]!r}.")
        counts = np.bincount(places, weights, minlength=len(self.classes_)).astype(np.float64)
        if not counts.sum() > 0.0:
            raise ValueError("`sample_weight` must be positive for some samples, but none is.")
        prior: Floats = counts / counts.sum()
        return prior

    def _weighted_prior(self, y: NDArray[Any], sample_weight: ArrayLike | None, others: list[str]) -> Floats:
        """The prior of the classifier's probabilities, that of training as it weights it; an error if unknown."""
        model = _innermost(self.estimator_)
        own = model.get_params(deep=False).get("class_weight")
        known = isinstance(model, WEIGHTED) and getattr(model, "loss", "log_loss") == "log_loss"
        found = _balancing(self.estimator_, model, but=("class_weight",) if known else ())
        shifts = sample_weight is not None and not np.allclose(self._train_prior(y, None), self.train_prior_)
        if not found and others:
            found = f"`{others[0]}`, which weights a part of it"
        if not found and shifts and not isinstance(model, BaggingClassifier | CalibratedClassifierCV):
            parts = [type(each) for each in (model, *model.get_params().values()) if isinstance(each, UNWEIGHTED)]
            if parts:
                found = f"a {parts[0].__name__} with `sample_weight`, which do not weight its probabilities alike"
        if not found and isinstance(own, str) and sample_weight is not None:
            found = f"class_weight={own!r} and `sample_weight`"
        if found:
            raise ValueError(
                f"`source_prior` must be given for {found}: the prior that its probabilities are under, such as the "
                "class frequencies of its training set, or 'uniform' if it was balanced."
            )
        prior = self.train_prior_
        if not (prior > 0.0).all():
            empty = self.classes_[int((prior <= 0.0).argmax())]
            raise ValueError(
                f"`sample_weight` must be positive for some sample of each class, but class {empty!r} has none."
            )
        if own is not None:
            balanced = "balanced" if isinstance(own, str) else own
            prior = prior * compute_class_weight(balanced, classes=self.classes_, y=y)
        if not (prior > 0.0).all():
            empty = self.classes_[int((prior <= 0.0).argmax())]
            raise ValueError(f"`class_weight` must be positive for each class, but is not for {empty!r}.")
        normed: Floats = prior / prior.sum()
        return normed

    def _counted(self, p: Floats) -> Floats:
        """Probabilities after one more vote, split as the prior is, where they are shares of votes."""
        model = _innermost(self.estimator_)
        if isinstance(model, RandomForestClassifier | ExtraTreesClassifier | BaggingClassifier):
            votes = len(model.estimators_)
        elif isinstance(model, KNeighborsClassifier):
            votes = model.n_neighbors
        else:
            return p
        counted: Floats = (votes * p + self.source_prior_) / (votes + 1)
        return counted

    def _prior(self, name: str, given: Any) -> Floats:
        """A prior of the classes, float64 [C], of any form that is taken."""
        size = len(self.classes_)
        words = ("uniform", "train", "estimate") if name == "target_prior" else ("uniform", "train")
        if isinstance(given, str):
            if given not in words:
                raise ValueError(f"`{name}` must be {', '.join(words)}, or a number a class, but is {given!r}.")
            return self.train_prior_ if given == "train" else np.full(size, 1.0 / size)
        given = _by_class(given, name)
        if isinstance(given, Mapping):
            known = self.classes_.tolist()
            if missing := [each for each in known if each not in given]:
                raise ValueError(
                    f"`{name}` must have a number for every class, but has none for {missing[0]!r}. Numbers in the "
                    "order of `classes_` come as a list or an array."
                )
            if surplus := [each for each in given if each not in known]:
                raise ValueError(
                    f"`{name}` has a number for {surplus[0]!r}, which is none of the classes {known[:10]}."
                )
            given = [given[each] for each in known]
        prior = np.asarray(given, dtype=np.float64)
        if prior.shape != (size,):
            raise ValueError(f"`{name}` must have one number a class, shape [{size}], but has {list(prior.shape)}.")
        least = prior.min() > 0.0 if name == "source_prior" else (prior.min() >= 0.0 and prior.sum() > 0.0)
        if not np.isfinite(prior).all() or not least:
            raise ValueError(f"`{name}` must be positive and finite, but is {prior.tolist()[:10]}.")
        normed: Floats = prior / prior.sum()
        return normed


def _innermost(model: Any) -> Any:
    """The classifier inside a fitted pipeline or search, whose probabilities theirs are."""
    while True:
        if isinstance(model, Pipeline):
            model = model[-1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            return model


def _by_class(given: Any, name: str) -> Any:
    """Numbers of classes as a dictionary, where they come with their classes as pandas has them; else as they are."""
    if getattr(given, "ndim", 0) == 2 and hasattr(given, "iloc"):  # a table of one column, or of one row
        given = given.iloc[:, 0] if given.shape[1] == 1 else given.iloc[0] if given.shape[0] == 1 else given
    index: Any = getattr(given, "index", None)  # a method of lists
    if callable(index) or not hasattr(index, "tolist") or getattr(given, "ndim", 1) != 1:
        return given
    # `value_counts()` of a table has tuples of one.
    classes = [each[0] if isinstance(each, tuple) and len(each) == 1 else each for each in index.tolist()]
    if len(set(classes)) < len(classes):
        raise ValueError(f"`{name}` must have one number a class, but its index has classes that stand there twice.")
    return dict(zip(classes, np.asarray(given).tolist(), strict=True))


def _weights_name(model: Any, passed: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The name of the weights of samples of the classifier inside a pipeline or search, and of other parts of it."""
    prefix, unrelated = "", []
    while True:
        if isinstance(model, Pipeline):
            unrelated += [f"{prefix}{step}__" for step, _ in model.steps[:-1]]  # they fit what comes before it
            prefix, model = f"{prefix}{model.steps[-1][0]}__", model[-1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            break
    name = f"{prefix}sample_weight"
    ours = [each for each in passed if each.endswith("sample_weight") and each != name]
    if get_config()["enable_metadata_routing"] and "sample_weight" in ours:
        name = "sample_weight"  # which the pipeline hands to the steps that ask for it
        ours.remove(name)
    return name, [each for each in ours if not each.startswith(tuple(unrelated))]


def _balancing(whole: Any, model: Any, but: tuple[str, ...]) -> str:
    """Say what makes the prior of a classifier's probabilities unknown; nothing where it is that of training.

    Args:
        whole: the fitted classifier.
        model: the innermost one of its pipelines and searches.
        but: parameters of ``model`` itself whose effect is known.
    """
    kind = type(model).__name__
    if isinstance(model, FrozenEstimator):
        return "a FrozenEstimator, whose training labels it does not know"
    # Steps before a classifier may have weights of their own, but only those that change the samples change its prior.
    steps = list(whole.get_params(deep=True).values())
    settings = model.get_params(deep=True)
    for part in [whole, *steps, model, *settings.values()]:
        foreign = type(part).__module__.partition(".")[0] == "imblearn" and not isinstance(part, Pipeline)
        if foreign or hasattr(part, "fit_resample"):
            return f"a {type(part).__name__}, which balances the classes by itself"
    for part in [model, *settings.values()]:
        if isinstance(part, AdaBoostClassifier):
            return f"a {type(part).__name__}, which weights the samples by itself"
        fitted_after = isinstance(model, CalibratedClassifierCV | StackingClassifier)
        if isinstance(part, FrozenEstimator) and is_classifier(part) and not fitted_after:
            return f"a {kind} of a FrozenEstimator, whose training labels it does not know"
    for name, value in settings.items():
        if name not in but and _balances(name, value):
            shown = repr(value)
            return f"a {kind} with {name}={shown if len(shown) < 50 else '...'}, whose effect on it is not known"
    return ""


def _balances(name: str, value: Any) -> bool:
    """Whether a parameter, or what a search inside tries, weights the classes or sets their prior."""
    last = name.rpartition("__")[2]
    if last in ("param_grid", "param_distributions"):
        grids = [value] if isinstance(value, Mapping) else value
        return any(_balances(each, True) for grid in grids for each in grid)
    if last == "fit_prior":
        return value is False  # the prior is uniform then
    if last == "scale_pos_weight":
        return value is not None and not (isinstance(value, int | float) and value == 1)
    if last == "is_unbalance":
        return bool(value)
    return value is not None and last.endswith(("class_weight", "class_weights", "prior", "priors"))
