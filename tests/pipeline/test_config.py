"""The run file: what is accepted, and how what is not is refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.build.config import SplitConfig, WalkConfig
from components.check.config import Thresholds
from components.gate.config import GateConfig
from components.tables.schemas import schema_folder
from models.names import registry
from models.names.errors import ConfigError
from models.names.label import Label
from pipeline import config, lineage, local, preflight


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_and_names(tmp_path):
    run = config.load()
    assert (run.model, run.data.source, run.split.name) == (
        "two_tower",
        "movielens-100k",
        "leave_one_out",
    )
    assert run.pipeline_name == "two_tower-movielens-100k-leave_one_out"
    named = config.load(None, {"data.source": "/some/where/my log é"}).pipeline_name
    assert re.fullmatch("two_tower-my-log-[0-9a-f]{8}-leave_one_out", named)


def name_of(source, **overrides):
    overrides = {key.replace("__", "."): value for key, value in overrides.items()}
    return config.load(None, {"data.source": source, **overrides}).pipeline_name


def test_two_folders_are_two_pipelines_however_they_are_called(tmp_path, monkeypatch):
    """One shop's model was pushed over another's."""
    places = [
        "/a/data",
        "/b/data",
        "/a/shop v2",
        "/a/shop-v2",
        "/a/店",
        "/a/ショップ",
        "gs://a/data",
    ]
    names = [name_of(place) for place in places]
    assert len(set(names)) == len(places)
    assert all(re.fullmatch("[A-Za-z0-9._-]+", name) for name in names)
    # A folder has one name, wherever it is named from.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    inside = name_of("data")
    assert inside == name_of(str(tmp_path / "data")) == name_of("./data/")
    monkeypatch.chdir(tmp_path / "data")
    assert inside == name_of(".") and "-data-" in inside
    # A folder that is called as a public data set is.
    assert name_of("/a/movielens-100k") != name_of("movielens-100k")
    assert name_of("/a/data", name="shop") == name_of("/b/data", name="shop") == "shop"


def test_what_is_learnt_is_in_the_name():
    names = {
        name_of("/a", model="lr", label__column=column) for column in ("a b", "a/b", "a-b", "a_b")
    }
    assert len(names) == 4 and not any("/" in name for name in names)


@pytest.mark.parametrize("name", ["serving", "reports", "..", ".hidden", "a/b", "", "x" * 201])
def test_a_name_is_that_of_a_folder_of_its_own(name):
    with pytest.raises(ConfigError, match="name: must name a folder of its own under output"):
        config.load(None, {"name": name})


def test_flags_override_the_file_and_the_resolved_run_reads_back(tmp_path):
    path = write(
        tmp_path,
        "model: neumf\nseed: 3\nhyper_parameters: {epochs: 4, factors: 8}\ndata: {schema: "
        "generic}\n",
    )
    run = config.load(
        path,
        {
            "seed": 5,
            **config.parse_settings(
                ("epochs=7", "learning_rate=1e-3", "split.seed=9", "gate.max_regression=0.01")
            ),
        },
    )
    assert run.seed == 5 and run.split.seed == 9 and run.gate.max_regression == 0.01
    assert run.hyper_parameters == {"epochs": 7, "factors": 8, "learning_rate": 0.001}
    assert run.data.schema_name == "generic"
    assert config.load(write(tmp_path, run.to_yaml())) == run


@pytest.mark.parametrize(
    "text, message",
    [
        ("modell: neumf", "unknown key 'modell'; did you mean 'model'"),
        ("split: {nmae: ratio}", "unknown key 'split.nmae'; did you mean 'name'"),
        ("data: {shema: x}", "unknown key 'data.shema'; did you mean 'schema'"),
        ("model: neumff", "no model is called 'neumff'; did you mean 'neumf'"),
        ("split: {name: leave_two_out}", "split.name: .*received 'leave_two_out'"),
        ("walks: {walk_lenght: 3}", "unknown key 'walks.walk_lenght'; did you mean 'walk_length'"),
        ("walks: {kind: deepwlk}", "walks.kind: .*received 'deepwlk'"),
        ("split: {name: given}", "split.file is required by the split 'given'"),
        ("split: {valid_fraction: .6, test_fraction: .5}", "split.valid_fraction .* received 0.6"),
        ("walks: {q: 2}", "walks.q belongs to walks.kind 'node2vec'; received 2.0 with 'baskets'"),
        ("split: {days: 3}", "split.days belongs .*'last_days' or .*received 3.0 with 'leave_one"),
        ("split: {name: ratio, file: f}", "split.file belongs to split.name 'given'"),
        ("split: {shared: items}", "split.shared belongs to split.name 'cross_domain'"),
        ("index: {kind: exact, lists: 4}", "index.lists belongs to index.kind 'ivf'; received 4"),
        ("seed: 1\nindex:\n  kind: ivf\n  kind: exact", "line 4: required: each key once.*'kind'"),
        ("epochs: 3", "unknown key 'epochs'; did you mean hyper_parameters.epochs"),
        ("", "required: a mapping .*received nothing"),
        ("check: {min_user_event: 3}", "'check.min_user_event'; did you mean 'min_user_events'"),
        ("check: {max_future_share: 2}", "check.max_future_share: must be a share .*received 2"),
        ("metrics: recal@50", "metrics: .*did you mean 'recall_50'"),
        ("{model: deepfm, metrics: [auc]}", "metrics: for models that rank the catalogue"),
        ("gate: {max_regression: -1}", "gate.max_regression: .*received -1"),
        ("seed: many", "seed: .*received 'many'"),
        ("- model", "required: a mapping"),
        ("model: [", "is no YAML"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        config.load(write(tmp_path, text))


def test_a_resolved_run_and_the_defaults_of_a_model_are_no_keys_of_another_split(tmp_path):
    """A resolved run has every key; a cross-domain model names the split, its run the domains."""
    resolved = config.load(None, {"model": "popularity", "split.name": "ratio"})
    assert config.load(write(tmp_path, resolved.to_yaml())).split == resolved.split
    run = config.load(write(tmp_path, "{model: emcdr, split: {source: books, shared: items}}"))
    assert (run.split.name, run.split.source) == ("cross_domain", "books")


def test_a_key_that_yaml_merges_is_not_there_twice(tmp_path):
    assert config.load(write(tmp_path, "<<: {seed: 3, refit: true}\nseed: 4\n")).seed == 4


def test_a_run_nests_what_the_components_declare_and_passes_it_on_as_json():
    run = config.load(
        None, {"split.name": "last_days", "split.days": 2, "check.allowed_anomalies": "items.year"}
    )
    for name, settings in (
        ("split", SplitConfig),
        ("walks", WalkConfig),
        ("check", Thresholds),
        ("gate", GateConfig),
    ):
        own = getattr(run, name)
        # What the executor makes of the parameter is what the run holds.
        assert type(own) is settings and settings.parse(json.loads(own.model_dump_json())) == own
    assert run.split.days == 2 and run.check.allowed_anomalies == ("items.year",)
    label = config.load(None, {"model": "lr"}).label
    assert type(label) is Label and Label.parse(json.loads(label.model_dump_json())) == label


def test_what_a_run_leaves_open_is_as_the_model_wants_it(tmp_path, monkeypatch):
    """The run's own word comes first, part by part and key by key."""
    entry = dataclasses.replace(
        registry.get("item2vec"),
        defaults={
            "walks": {"kind": "deepwalk", "directed": True},
            "split": {"drop_repeats": False},
        },
    )
    monkeypatch.setattr(registry, "get", lambda name: entry)
    open_ = config.load(overrides={"model": "item2vec"})
    assert (open_.walks.kind, open_.walks.directed) == ("deepwalk", True)
    assert open_.split.drop_repeats is False and open_.split.name == "leave_one_out"
    said = config.load(overrides={"model": "item2vec", "walks.kind": "baskets", "split.seed": 1})
    assert (said.walks.kind, said.walks.directed, said.split.seed) == ("baskets", True, 1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the run file .*none.yaml: No such file"):
        config.load(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("setting", ["epochs", "=3", ""])
def test_a_setting_needs_a_name_and_a_value(setting):
    with pytest.raises(ConfigError, match="--set requires NAME=VALUE"):
        config.parse_settings((setting,))


def test_a_score_run_has_a_label_and_a_random_split(tmp_path):
    click, rating = (
        config.load(None, {"model": "deepfm"}),
        config.load(None, {"model": "biased_mf"}),
    )
    assert (click.label.column, click.label.threshold, click.split.name) == ("rating", 4.0, "ratio")
    assert (rating.label.column, rating.label.threshold) == ("rating", None)
    assert (
        click.pipeline_name == "deepfm-movielens-100k-ratio-rating-4"
        and rating.pipeline_name == "biased_mf-movielens-100k-ratio-rating"
    )
    own = config.load(
        None,
        {
            "model": "fm",
            **config.parse_settings(
                ("label.column=label", "split.name=temporal", "features.min_count=5")
            ),
        },
    )
    assert (own.label.column, own.label.threshold, own.split.name, own.features.min_count) == (
        "label",
        None,
        "temporal",
        5,
    )
    assert config.load(write(tmp_path, own.to_yaml())) == own
    assert config.load().label is None


def test_the_layout_of_the_data_may_say_what_is_usual(tmp_path):
    impressions = "\t".join(["1", *[""] * 39]) + "\n"
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(impressions)
    run = config.load(None, {"model": "lr", "data.source": str(tmp_path)})
    assert (run.label.column, run.label.threshold, run.split.name) == ("label", None, "predefined")
    assert (
        config.load(
            None, {"model": "lr", "data.source": str(tmp_path), "split.name": "ratio"}
        ).split.name
        == "ratio"
    )


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "label: {colum: rating}",
            "unknown key 'label.colum'; did you mean 'column'|label.column: Field required",
        ),
        (
            "label: {column: rating, treshold: 4}",
            "unknown key 'label.treshold'; did you mean 'threshold'",
        ),
        ("label: {column: rating, threshold: high}", "label.threshold: .*received 'high'"),
    ],
)
def test_a_bad_label_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        config.load(write(tmp_path, "model: lr\n" + text))


def create_pipeline(overrides, schemas="movielens", **hyper_parameters):
    from pipeline import dag

    return dag.create_pipeline(
        config.load(None, overrides),
        source="",
        fingerprint="",
        schemas=str(schemas),
        hyper_parameters=hyper_parameters,
        pipeline_root="",
        serving_dir="",
    )


def test_targets_that_the_ranking_leaves_out_are_refused_before_anything_runs():
    overrides = {"split.drop_repeats": False}
    with pytest.raises(
        ConfigError, match="split.drop_repeats: false .* hyper_parameters.filter_seen: true"
    ):
        create_pipeline(overrides, filter_seen=True)
    assert create_pipeline(overrides, filter_seen=False).components


def test_a_warm_start_of_a_closed_form_is_refused_before_anything_runs():
    overrides = {"model": "ease", "warm_start": True}
    with pytest.raises(ConfigError, match="ease has no use for 'warm_start'.*closed form"):
        create_pipeline(overrides, l2=250.0)
    assert create_pipeline({**overrides, "model": "bpr_mf"}, epochs=3).components


def test_an_index_is_measured_and_is_for_models_with_vectors(tmp_path):
    run = config.load(None, {"index.kind": "ivf", "index.probes": 8, "metrics": ["auc"]})
    assert run.metrics == ("auc", "index_recall_100")
    assert config.load(write(tmp_path, run.to_yaml())) == run
    assert config.load().metrics == () and config.load().index.kind == "exact"
    with pytest.raises(ConfigError, match="index.kind: lr scores single rows .* received ivf"):
        config.load(None, {"model": "lr", "index.kind": "ivf"})
    with pytest.raises(ConfigError, match="index.kind: ivf is for .* ease's is none"):
        create_pipeline({"model": "ease", "index.kind": "ivf"}, l2=250.0)
    nodes = create_pipeline({"index.kind": "ivf"}, epochs=3).components
    trainer = next(node for node in nodes if node.id == "Trainer")
    told = json.loads(trainer.exec_properties["custom_config"])
    assert told["index"] == {"kind": "ivf", "lists": None, "probes": None, "recall": 0.98}
    assert told["metrics"] == ["index_recall_100"]


def test_an_edit_of_the_users_own_schema_is_noticed_by_what_reads_it(tmp_path):
    """The folder's path was all that the cache knew; the old schema went on to be enforced."""
    folder = shutil.copytree(schema_folder("generic"), tmp_path / "schema")

    def parameters():
        nodes = create_pipeline({}, folder, epochs=1).components
        return {node.id: dict(node.exec_properties) for node in nodes}

    before = parameters()
    assert before == parameters()
    items = tmp_path / "schema" / "items.pbtxt"
    items.write_text(items.read_text() + "# one more line\n")
    after = parameters()
    assert {node for node in before if before[node] != after[node]} == {
        "Schema-items",
        "TableCheck",
        "ExampleBuilder",
        "LastBlessed",  # the identity of what is trained
        "Trainer",
    }


def test_the_layout_is_decided_once(tmp_path, monkeypatch):
    from components.read.layouts import detection

    (tmp_path / "events.csv").write_text("user_id,item_id,rating\nu,i,4\n")
    count, own = [], detection.detect
    monkeypatch.setattr(detection, "detect", lambda *given: count.append(given) or own(*given))
    run = config.load(None, {"model": "lr", "data.source": str(tmp_path)})
    assert run.data.reader == "csv" and len(count) == 1
    assert preflight.find_data(run, print)[1:] == ("generic", "csv") and len(count) == 1
    run = config.load(None, {"model": "popularity", "data.source": str(tmp_path)})
    assert preflight.find_data(run, print)[2] == "csv" and len(count) == 2


def test_a_run_says_what_each_column_is_taken_for(tmp_path):
    (tmp_path / "events.csv").write_text("user_id,item_id,rating,size\nu,i,4,1.5\nu,j,5,2\n")
    (tmp_path / "items.csv").write_text("item_id,title,price,zip\ni,A,3,00501\nj,B,4,9\n")
    run = config.load(None, {"model": "popularity", "data.source": str(tmp_path)})
    said = []
    preflight.check(run, said.append)
    assert said == [
        "  events (events.csv): rating: number, size: number (10 buckets)",
        # The schema calls the price a number, though these are whole.
        "  items (items.csv): title: text, price: number (10 buckets), zip: category (2 values in "
        "the first 2 rows)",
        "split leave_one_out: the log has no times: the order of its rows is taken for it",
    ]
    typed = {"model": "popularity", "data.source": str(tmp_path)}
    typed["check.allowed_anomalies"] = "items.price"  # which the schema calls a number
    run = config.load(None, {**typed, "data.columns.types.price": "category"})
    preflight.check(run, said.append)
    assert any("price: category (2 values in the first 2 rows)" in line for line in said)


@pytest.mark.parametrize("mark", "[]*?")
def test_a_folder_that_beam_takes_for_a_pattern_is_refused(tmp_path, mark):
    with pytest.raises(ConfigError, match="--output: required: a path without"):
        local.require_plain(tmp_path / f"a{mark}b", "--output")
    local.require_plain(tmp_path / "runs (2), é", "--output")


@pytest.mark.parametrize("mark", [",", ";", "|", "*", "%", "@", "\\t"])
def test_marks_of_yaml_can_be_set(mark):
    key = "data.columns.delimiter"
    assert config.parse_settings((f"{key}={mark}",)) == {key: mark}


def test_a_run_says_what_was_left_out(tmp_path):
    report = {
        "read": 3000,
        "columns": {"user_id": "bytes", "size": "float"},
        "rejected": {"empty item_id": {"count": 2, "file": "/a/e.csv", "line": 7, "received": ""}},
        "unreadable": {"size": 3},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    step = dataclasses.replace(lineage.Step("", "", 0), outputs={"events": str(tmp_path)})
    record = SimpleNamespace(steps={"TableReader": step})
    assert local.left_out(record) == [
        "events: 2 of 3,000 rows rejected: empty item_id; e.csv, line 7: ",
        "events.size: 3 values are no float and count as missing (data.columns.types.size)",
    ]
    assert local.left_out(SimpleNamespace(steps={})) == []


def test_a_slice_that_queries_do_not_have_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"gate.slices: .*'activty:0'; did you mean 'activity'"):
        create_pipeline({"gate.slices": "activty:0"})


def test_runs_on_lists_or_with_weights_have_names_of_their_own():
    label = {"column": "event_type", "grades": {"click": 1}, "group": "search"}
    named = [
        config.RunConfig.parse({"model": model, "label": {**label, **more}}).pipeline_name
        for model, more in (("deepfm", {}), ("airbnb_ranker", {"weight": "importance"}))
    ]
    assert named[0].endswith("-event_type-search")
    assert named[1].endswith("-event_type-search-importance")


@pytest.mark.parametrize(
    "said, expected",
    [
        (None, {}),
        ("processes", {"beam.runner": "processes"}),
        (
            "{runner: prism, options: {job_endpoint: 'localhost:1'}}",
            {"beam.runner": "prism", "beam.options": {"job_endpoint": "localhost:1"}},
        ),
    ],
)
def test_an_engine_is_said_by_its_name_or_as_the_file_does(said, expected):
    assert config.parse_beam(said) == expected


def test_a_flag_changes_of_the_engine_what_it_says(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "beam: {runner: portable, options: {job_endpoint: 'jobs:1', environment_config: 'p:2'}}"
    )
    flags = config.parse_beam("prism") | config.parse_settings(
        ("beam.options.environment_config=p:3",)
    )
    engine = config.load(str(tmp_path / "run.yaml"), flags).beam
    assert engine.runner == "prism"
    assert engine.options == {"job_endpoint": "jobs:1", "environment_config": "p:3"}
    with pytest.raises(ConfigError, match="--beam requires a runner's name.*received '3'"):
        config.parse_beam("3")
    with pytest.raises(ConfigError, match="unknown key 'beam.option'; did you mean 'options'"):
        config.load(None, config.parse_beam("{option: {}}"))


def test_models_are_pushed_to_a_place_of_their_own(tmp_path):
    def pushes(**said):
        run = {"model": "ease", "name": "shop", "output": str(tmp_path), **said}
        return config.load(None, run).serving_dir

    assert pushes() == f"{tmp_path}/serving/shop"
    assert pushes(push="s3://shop/models/") == "s3://shop/models/shop"
    assert pushes(push="models") == str(Path("models/shop").absolute())


def test_a_run_is_not_kept_in_a_bucket():
    with pytest.raises(ConfigError, match="output: required: a folder of this.*received s3"):
        local.run(config.load(None, {"output": "s3://shop/runs"}), lambda line: None)
    with pytest.raises(ConfigError, match="required: a path, or a URI.*received http://shop/data"):
        preflight.find_data(
            config.load(None, {"data.source": "http://shop/data"}), lambda line: None
        )
