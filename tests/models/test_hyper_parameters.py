"""The common settings: which model honours which, and what is said of the others."""

import re

import pytest

from models.names import registry
from models.names.errors import ConfigError
from models.names.hyper_parameters import COMMON
from models.training.trainer import resolve

RANKING = {"filter_seen", "segment"}
EPOCHS = {"epochs", "patience", "latest_share", "validate_every", "monitor"}
GRADIENT = {"batch_size", "learning_rate"}
TRAINED = EPOCHS | GRADIENT
# Read off each model's file: Adam with sparse gradients, layers in half precision, a step that XLA
# compiles, ids made unknown; a table of all fields.
HONOURED = {
    "popularity": RANKING,
    "item_knn": RANKING,
    "ease": RANKING,
    "ials": RANKING | EPOCHS,
    "v_sknn": RANKING,
    "bpr_mf": RANKING | TRAINED | {"lazy_adam", "jit_compile", "unknown_rate"},
    "autorec": TRAINED | {"mixed_precision", "jit_compile"},
    "mult_dae": RANKING | TRAINED | {"mixed_precision", "jit_compile"},
    "mult_vae": RANKING | TRAINED | {"mixed_precision", "jit_compile"},
    "two_tower": {*COMMON} - {"jit_compile", "list_loss", "hash_rows", "row_adagrad"},
    "youtube_candidates": {*COMMON} - {"unknown_rate", "list_loss", "hash_rows", "row_adagrad"},
    "emcdr": RANKING | TRAINED | {"lazy_adam", "jit_compile"},
    "rib": RANKING | TRAINED | {"jit_compile"},
    "binn": RANKING | TRAINED | {"jit_compile"},
    "cdae": RANKING | TRAINED | {"jit_compile"},
    "yahoo_news": RANKING | TRAINED | {"jit_compile"},
    "bge": RANKING | TRAINED | {"lazy_adam", "jit_compile"},
    "ges": RANKING | TRAINED | {"lazy_adam"},
    "eges": RANKING | TRAINED | {"lazy_adam"},
    "cune_bpr": RANKING | TRAINED | {"lazy_adam", "jit_compile"},
    "cune_mf": TRAINED | {"jit_compile"},
    "neumf": {*COMMON} - {"list_loss", "hash_rows", "row_adagrad"},
    "item2vec": RANKING | TRAINED | {"mixed_precision", "jit_compile"},
    "gru4rec": RANKING | TRAINED | {"lazy_adam", "mixed_precision", "jit_compile"},
    "tan": RANKING | TRAINED | {"mixed_precision", "jit_compile"},
    "sr_gnn": RANKING | TRAINED,
    "biased_mf": TRAINED | {"jit_compile", "unknown_rate"},
    "lr": TRAINED | {"hash_rows", "jit_compile", "unknown_rate", "list_loss"},
    "fm": TRAINED
    | {"hash_rows", "row_adagrad", "lazy_adam", "jit_compile", "unknown_rate", "list_loss"},
    "wide_deep": TRAINED
    | {"hash_rows", "mixed_precision", "jit_compile", "unknown_rate", "list_loss"},
    "youtube_ranking": TRAINED | {"lazy_adam", "mixed_precision", "jit_compile"},
    "airbnb_ranker": {*COMMON} - RANKING - {"row_adagrad"},
    "airbnb": RANKING | TRAINED | {"lazy_adam", "jit_compile"},
    "deepfm": TRAINED
    | {
        "hash_rows",
        "row_adagrad",
        "lazy_adam",
        "mixed_precision",
        "jit_compile",
        "unknown_rate",
        "list_loss",
    },
    "xdeepfm": TRAINED
    | {
        "hash_rows",
        "row_adagrad",
        "lazy_adam",
        "mixed_precision",
        "jit_compile",
        "unknown_rate",
        "list_loss",
    },
    "deepconn": TRAINED | {"mixed_precision"},
    "convmf": TRAINED | {"mixed_precision", "jit_compile"},
}


def test_every_model_is_here():
    assert {*HONOURED} == {*registry.MODELS}


@pytest.mark.parametrize("name", HONOURED)
def test_a_model_has_the_common_settings_that_it_honours(name):
    fields = registry.load(name).Model.HyperParameters.model_fields
    assert {*COMMON} & {*fields} == HONOURED[name]


@pytest.mark.parametrize("name", registry.MODELS)
def test_the_common_settings_that_a_model_has_not_are_refused_by_name(name):
    declared = registry.load(name).Model.HyperParameters
    own = vars(declared).get("REFUSALS", {})
    assert {*own} <= {*COMMON} - {*declared.model_fields}, "a reason for what is not refused"
    for setting in {*COMMON} - {*declared.model_fields}:
        reason = re.escape(declared.REFUSALS.get(setting, COMMON[setting].REFUSAL))
        with pytest.raises(ConfigError, match=f"{name} has no use for '{setting}': {reason}$"):
            resolve(name, {setting: 1})


def test_a_refusal_says_why():
    with pytest.raises(
        ConfigError,
        match="^ease has no use for 'epochs': it is fitted in closed form, in one pass$",
    ):
        resolve("ease", {"epochs": 3})
    with pytest.raises(ConfigError, match="sr_gnn has no use for 'jit_compile': .*tf.unique_with_"):
        resolve("sr_gnn", {"jit_compile": True})
    with pytest.raises(ConfigError, match="ges has no use for 'jit_compile': .* ragged"):
        resolve("ges", {"jit_compile": True})
    with pytest.raises(ConfigError, match="jit_compile of the ranker compiles both stages"):
        resolve("airbnb_ranker", {"listings": {"jit_compile": True}})
    for name, value in {"latest_share": 1.0, "monitor": "hr_10", "history_length": 1}.items():
        with pytest.raises(ConfigError, match=f"listings: .*{name} has no effect"):
            resolve("airbnb_ranker", {"listings": {name: value}})
    with pytest.raises(ConfigError, match="bpr_mf has no hyper-parameter 'l2_users'; did you mean"):
        resolve("bpr_mf", {"l2_users": 3})
    with pytest.raises(ConfigError, match="lazy_adam is for the optimizer 'adam'"):
        resolve("gru4rec", {"lazy_adam": True})


@pytest.mark.parametrize("width", [0, -3])
def test_layers_have_units(width):
    for model in (
        "youtube_ranking",
        "two_tower",
        "airbnb_ranker",
        "deepfm",
        "xdeepfm",
        "wide_deep",
    ):
        with pytest.raises(ConfigError, match=f"{model}: hyper-parameter hidden.* {width}$"):
            resolve(model, {"hidden": [width]})
    for model in ("gru4rec", "tan"):
        with pytest.raises(ConfigError, match=f"{model}: hyper-parameter units.* {width}$"):
            resolve(model, {"units": [width]})


def test_numbers_are_finite():
    """Every default is, and nothing else is taken."""
    for model in registry.MODELS:
        declared = registry.load(model).HyperParameters
        defaults = declared()
        for name in declared.model_fields:
            if isinstance(getattr(defaults, name), float):
                for value in (float("inf"), float("nan")):
                    with pytest.raises(ConfigError, match=f"{model}: hyper-parameter {name}:"):
                        resolve(model, {name: value})
        declared(**defaults.model_dump())


def test_a_column_has_one_table():
    with pytest.raises(ConfigError, match="shared: .*'item_id' is named more than once"):
        resolve("youtube_ranking", {"shared": [["item_id", "a"], ["item_id", "b"]]})


def test_what_a_model_has_not_got_is_off_for_who_treats_all_alike():
    closed, trained = resolve("ease", {}), resolve("neumf", {"monitor": "hr_10", "lazy_adam": True})
    assert closed.setting("monitor") is None and closed.setting("mixed_precision") is False
    assert trained.setting("monitor") == "hr_10" and trained.setting("lazy_adam") is True


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("batch_size", 0, "must be at least 1"),
        ("patience", 0, "must be at least 1"),
        ("learning_rate", 0, "must be greater than 0"),
        ("unknown_rate", 1.0, "must be at least 0 and less than 1"),
    ],
)
def test_bounds_hold_whatever_default_a_model_sets(setting, value, message):
    with pytest.raises(ConfigError, match=f"{setting}.*{message}.*received {value}"):
        resolve("neumf", {setting: value})


def test_a_class_derived_from_a_model_has_its_hyper_parameters():
    from models.baseline.item_based import ItemBased
    from models.mlp.neumf import HyperParameters, NeuMF

    class Mine(NeuMF):
        """As in a notebook."""

    class Own(HyperParameters):
        """With one setting more."""

        mine: int = 3

    class More(NeuMF):
        """A model whose settings are more."""

        HyperParameters = Own

    assert Mine.HyperParameters is NeuMF.HyperParameters is HyperParameters
    assert More.HyperParameters().mine == 3 and More.HyperParameters().factors == 64
    assert ItemBased.HyperParameters.model_fields == {}
