"""scikit-learn: any classifier, corrected for another class mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
    from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, RandomForestClassifier
    from sklearn.frozen import FrozenEstimator
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError("ltaug.integrations.sklearn needs scikit-learn 1.6 or later: pip install scikit-learn") from error

from ltaug.labelshift import estimate_prior

__all__ = ["PriorCorrectedClassifier"]

Floats = NDArray[np.float64]


class PriorCorrectedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # untyped
    r"""A classifier whose probabilities are corrected from the training set's class mix to another one.

    .. math:: p'(y | x) \propto p(y | x) \, (\pi'_y / \pi_y)^{strength}

    with the prior pi that the fitted probabilities are under and pi' of where they are used (Saerens et al., Neural
    Computation 2002, https://doi.org/10.1162/089976602753284446). Nothing is fitted but the classifier.

    Forests, bagging and nearest neighbours count votes: a rare class often has none, and no factor lifts a zero. There
    one more vote, split as the training set is, is counted first: (T p + pi) / (T + 1) with T votes.

    Args:
        estimator: a classifier with ``predict_proba``. A pipeline, a ``GridSearchCV`` and a ``FrozenEstimator`` are
            ones, too.
        target_prior: "uniform"; "estimate", by expectation maximisation on the very samples that are predicted
            (:func:`ltaug.estimate_prior`: of one row nothing can be estimated); "train", which corrects nothing but the
            classifier's own class weights; numbers in the order of ``classes_``; or numbers by class.
        source_prior: the prior that the classifier's probabilities are under, in the same forms but "estimate". By
            default that of the training labels, weighted by ``sample_weight`` and the estimator's ``class_weight``,
            so that it is uniform with ``class_weight="balanced"``. Name it for classifiers that balance in another way,
            and for a ``FrozenEstimator``, whose training labels are not those of ``fit``.
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
            sample_weight: weights [N], for classifiers that take them; they weight the prior, too.
            fit_params: further arguments of the classifier's ``fit``.

        Raises:
            ValueError: a prior does not fit the classes, or the classifier gives no probabilities.
        """
        if not isinstance(self.strength, int | float | np.number) or not 0.0 <= self.strength < np.inf:
            raise ValueError(f"`strength` must be a number from 0, but is {self.strength!r}.")
        passed = dict(process_routing(self, "fit", **fit_params).estimator.fit) if fit_params else {}
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
        self.train_prior_ = self._train_prior(np.asarray(y).ravel(), sample_weight)
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
        """Frequencies of the classes in training, weighted as the classifier weights them."""
        places = np.searchsorted(self.classes_, y)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        counts = np.bincount(places, weights, minlength=len(self.classes_)).astype(np.float64)
        model = _innermost(self.estimator_)
        own = model.get_params(deep=False).get("class_weight")
        unknown = isinstance(own, str) and sample_weight is not None and f"class_weight={own!r} and `sample_weight`"
        if isinstance(model, FrozenEstimator):
            unknown = "a FrozenEstimator, whose training labels it does not know"
        if unknown and isinstance(self.source_prior, str) and self.source_prior == "train":
            raise ValueError(
                f"`source_prior` must be given for {unknown}: the prior that its probabilities are under, such as the "
                "class frequencies of its training set, or 'uniform' if it was balanced."
            )
        if own is not None:
            balanced = "balanced" if isinstance(own, str) else own
            counts *= compute_class_weight(balanced, classes=self.classes_, y=y)
        if not (counts > 0.0).all():
            empty = self.classes_[int((counts <= 0.0).argmax())]
            raise ValueError(
                f"`sample_weight` must be positive for some sample of each class, but class {empty!r} has none."
            )
        prior: Floats = counts / counts.sum()
        return prior

    def _counted(self, p: Floats) -> Floats:
        """Probabilities after one more vote, split as the training set is, where they are shares of votes."""
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
        if isinstance(given, Mapping):
            known = self.classes_.tolist()
            if missing := [each for each in known if each not in given]:
                raise ValueError(f"`{name}` must have a number for every class, but has none for {missing[0]!r}.")
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
