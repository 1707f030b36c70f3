"""Which models there are. Light on purpose: listing them must not import TensorFlow."""

import hashlib
import importlib
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from models.names.errors import ConfigError, nearest

NEEDS = {
    "ids": "ids of users and items, which the log does not have",
    "item_text": "a column of the table items that data.schema says is text "
    "(natural_language_domain)",
    "item_text_or_review": "a column of the table items that data.schema says is text "
    "(natural_language_domain), or a column 'review' of the table events",
    "review": "a column 'review' of the table events",
    "ratings": "a label of numbers: label.column without label.threshold, such as rating",
    "equal_rows": "rows that weigh the same: no label.weight, and weights of 1 in positives.values",
    "two_domains": "split.name: cross_domain, of events with a column 'domain'",
}
"""What a model may need, in the words of what is required."""

EXPLANATIONS = {
    "sum": "parts of the score: they add up to it, but for biases and parts that are not told",
    "difference": "what the score loses where the item of the history, or the field, is left out",
    "similarity": "the cosine with an item of the history, which the score does not look at",
    "attention": "how much of the model's attention an item of the history has",
    "popularity": "nothing but the counts of train",
    "none": "nothing: the score looks at no history, and the items have no vectors",
}
"""How a model says what carried an answer, and what the weights of the reasons then are. A \
`retrieve` model's are of items of the history, a `score` model's of fields."""


@dataclass(frozen=True)
class Entry:
    """One published model.

    Attributes:
        name: what the user types.
        title: what people call it.
        task: `retrieve` (a score for every item) or `score` (a score for one user-item row).
        kind: the example kind it trains on: `event`, `profile`, `sequence` or `walk`.
        family: the family of the literature it belongs to.
        paper: first author, venue and year.
        module: the dotted path of its file.
        baseline: true for the reference that every other model must beat at the gate.
        learns: of a `score` model: what its paper predicts, `click` or `rating`; a run may set its
            label otherwise.
        reads: what a request may hold besides ids and, of a `score` model, features, as the
            model's class says it: of `event_types`, `dwell`, `timestamps`, and `context`.
        explains: how it says what carried an answer, of `EXPLANATIONS`, as the model's class has
            it.
        needs: what it cannot be trained without, of `NEEDS`; a run that lacks it is refused before
            anything heavy is imported.
        defaults: what the other parts of a run are unless the run says otherwise, as its file
            would say it; such as `{"split": {"drop_repeats": False}}` where a paper's sessions
            return to what they had.
    """

    name: str
    title: str
    task: str
    kind: str
    family: str
    paper: str
    module: str
    baseline: bool = False
    learns: str = ""
    reads: tuple[str, ...] = ()
    explains: str = "difference"
    needs: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# BGE, GES and EGES: the paper's graph and walks.
_WALKS_OF_AN_HOUR = {
    "walks": {
        "kind": "deepwalk",
        "directed": True,
        "weighted": True,
        "within": 3600,
        "walks_per_node": 20,
        "walk_length": 10,
    }
}

_ENTRIES = (
    Entry(
        name="popularity",
        title="Popularity",
        task="retrieve",
        kind="event",
        family="baseline",
        paper="train counts",
        module="models.baseline.popularity",
        baseline=True,
        explains="popularity",
    ),
    Entry(
        name="item_knn",
        title="Item-kNN",
        task="retrieve",
        kind="profile",
        family="baseline",
        paper="Sarwar et al., WWW 2001",
        module="models.baseline.item_knn",
        explains="sum",
    ),
    Entry(
        name="ease",
        title="EASE",
        task="retrieve",
        kind="profile",
        family="baseline",
        paper="Steck, WWW 2019",
        module="models.baseline.ease",
        explains="sum",
    ),
    Entry(
        name="bpr_mf",
        title="BPR-MF",
        task="retrieve",
        kind="event",
        family="baseline",
        paper="Rendle et al., UAI 2009",
        module="models.baseline.bpr_mf",
        explains="similarity",
    ),
    Entry(
        name="ials",
        title="iALS",
        task="retrieve",
        kind="profile",
        family="baseline",
        paper="Hu et al., ICDM 2008",
        module="models.baseline.ials",
        explains="sum",
    ),
    Entry(
        name="v_sknn",
        title="V-SKNN",
        task="retrieve",
        kind="sequence",
        family="baseline",
        paper="Ludewig & Jannach, UMUAI 2018",
        module="models.baseline.v_sknn",
        explains="sum",
    ),
    Entry(
        name="autorec",
        title="AutoRec",
        task="score",
        kind="profile",
        family="autoencoder",
        paper="Sedhain et al., WWW 2015",
        module="models.autoencoder.autorec",
        learns="rating",
        needs=("ids", "ratings", "equal_rows"),
    ),
    Entry(
        name="mult_dae",
        title="Mult-DAE",
        task="retrieve",
        kind="profile",
        family="autoencoder",
        paper="Liang et al., WWW 2018",
        module="models.autoencoder.mult_dae",
    ),
    Entry(
        name="mult_vae",
        title="Mult-VAE",
        task="retrieve",
        kind="profile",
        family="autoencoder",
        paper="Liang et al., WWW 2018",
        module="models.autoencoder.mult_vae",
    ),
    Entry(
        name="cdae",
        title="CDAE",
        task="retrieve",
        kind="profile",
        family="autoencoder",
        paper="Wu et al., WSDM 2016",
        module="models.autoencoder.cdae",
    ),
    Entry(
        name="two_tower",
        title="Two-tower",
        task="retrieve",
        kind="event",
        family="industry",
        paper="Yi et al., RecSys 2019",
        module="models.industry.two_tower",
    ),
    Entry(
        name="rib",
        title="RIB",
        task="retrieve",
        kind="sequence",
        family="industry",
        paper="Zhou et al., WSDM 2018",
        module="models.industry.rib",
        reads=("event_types", "dwell"),
        explains="attention",
    ),
    Entry(
        name="binn",
        title="BINN",
        task="retrieve",
        kind="sequence",
        family="industry",
        paper="Li et al., KDD 2018",
        module="models.industry.binn",
        reads=("event_types",),
    ),
    Entry(
        name="bge",
        title="BGE",
        task="retrieve",
        kind="walk",
        family="industry",
        paper="Wang et al., KDD 2018",
        module="models.industry.bge",
        explains="sum",
        needs=("equal_rows",),
        defaults=_WALKS_OF_AN_HOUR,
    ),
    Entry(
        name="ges",
        title="GES",
        task="retrieve",
        kind="walk",
        family="industry",
        paper="Wang et al., KDD 2018",
        module="models.industry.ges",
        explains="sum",
        needs=("equal_rows",),
        defaults=_WALKS_OF_AN_HOUR,
    ),
    Entry(
        name="eges",
        title="EGES",
        task="retrieve",
        kind="walk",
        family="industry",
        paper="Wang et al., KDD 2018",
        module="models.industry.eges",
        explains="sum",
        needs=("equal_rows",),
        defaults=_WALKS_OF_AN_HOUR,
    ),
    Entry(
        name="neumf",
        title="NeuMF",
        task="retrieve",
        kind="event",
        family="mlp",
        paper="He et al., WWW 2017",
        module="models.mlp.neumf",
        explains="none",
    ),
    Entry(
        name="item2vec",
        title="Item2vec",
        task="retrieve",
        kind="walk",
        family="embedding",
        paper="Barkan & Koenigstein, MLSP 2016",
        module="models.embedding.item2vec",
        explains="sum",
        needs=("equal_rows",),
    ),
    Entry(
        name="gru4rec",
        title="GRU4Rec",
        task="retrieve",
        kind="sequence",
        family="rnn",
        paper="Hidasi et al., ICLR 2016, CIKM 2018",
        module="models.rnn.gru4rec",
    ),
    Entry(
        name="tan",
        title="Tan",
        task="retrieve",
        kind="sequence",
        family="rnn",
        paper="Tan et al., DLRS 2016",
        module="models.rnn.tan",
    ),
    Entry(
        name="biased_mf",
        title="Biased MF",
        task="score",
        kind="event",
        family="baseline",
        paper="Koren et al., Computer 2009",
        module="models.baseline.biased_mf",
        learns="rating",
        explains="sum",
        needs=("ids",),
    ),
    Entry(
        name="lr",
        title="LR",
        task="score",
        kind="event",
        family="feature_interaction",
        paper="McMahan et al., KDD 2013",
        module="models.feature_interaction.lr",
        learns="click",
        explains="sum",
    ),
    Entry(
        name="fm",
        title="FM",
        task="score",
        kind="event",
        family="feature_interaction",
        paper="Rendle, ICDM 2010",
        module="models.feature_interaction.fm",
        learns="click",
        explains="sum",
    ),
    Entry(
        name="wide_deep",
        title="Wide & Deep",
        task="score",
        kind="event",
        family="feature_interaction",
        paper="Cheng et al., DLRS 2016",
        module="models.feature_interaction.wide_deep",
        learns="click",
    ),
    Entry(
        name="deepfm",
        title="DeepFM",
        task="score",
        kind="event",
        family="feature_interaction",
        paper="Guo et al., IJCAI 2017",
        module="models.feature_interaction.deepfm",
        learns="click",
    ),
    Entry(
        name="xdeepfm",
        title="xDeepFM",
        task="score",
        kind="event",
        family="feature_interaction",
        paper="Lian et al., KDD 2018",
        module="models.feature_interaction.xdeepfm",
        learns="click",
    ),
    Entry(
        name="deepconn",
        title="DeepCoNN",
        task="score",
        kind="event",
        family="cnn",
        paper="Zheng et al., WSDM 2017",
        module="models.cnn.deepconn",
        learns="rating",
        needs=("review",),
    ),
    Entry(
        name="convmf",
        title="ConvMF",
        task="score",
        kind="event",
        family="cnn",
        paper="Kim et al., RecSys 2016",
        module="models.cnn.convmf",
        learns="rating",
        needs=("ids", "item_text_or_review", "ratings", "equal_rows"),
    ),
    Entry(
        name="sr_gnn",
        title="SR-GNN",
        task="retrieve",
        kind="sequence",
        family="gnn",
        paper="Wu et al., AAAI 2019",
        module="models.gnn.sr_gnn",
    ),
    Entry(
        name="youtube_ranking",
        title="YouTube ranking",
        task="score",
        kind="event",
        family="industry",
        paper="Covington et al., RecSys 2016",
        module="models.industry.youtube_ranking",
        learns="rating",
    ),
    Entry(
        name="youtube_candidates",
        title="YouTube candidates",
        task="retrieve",
        kind="event",
        family="industry",
        paper="Covington et al., RecSys 2016",
        module="models.industry.youtube_candidates",
        reads=("context",),
    ),
    Entry(
        name="airbnb",
        title="Airbnb embeddings",
        task="retrieve",
        kind="sequence",
        family="industry",
        paper="Grbovic & Cheng, KDD 2018",
        module="models.industry.airbnb",
        reads=("event_types",),
        explains="sum",
        needs=("equal_rows",),
    ),
    Entry(
        name="yahoo_news",
        title="Yahoo! JAPAN news",
        task="retrieve",
        kind="event",
        family="industry",
        paper="Okura et al., KDD 2017",
        module="models.industry.yahoo_news",
        needs=("item_text",),
    ),
    Entry(
        name="airbnb_ranker",
        title="Airbnb ranker",
        task="score",
        kind="event",
        family="industry",
        paper="Grbovic & Cheng, KDD 2018",
        module="models.industry.airbnb_ranker",
        learns="rating",
        reads=("event_types",),
        # The embeddings are learnt of train: nothing in it may be later than what is asked.
        defaults={"split": {"name": "temporal"}},
    ),
    Entry(
        name="cune_mf",
        title="CUNE-MF",
        task="score",
        kind="event",
        family="embedding",
        paper="Zhang et al., SDM 2017",
        module="models.embedding.cune_mf",
        learns="rating",
        explains="sum",
        needs=("ids", "ratings"),
    ),
    Entry(
        name="cune_bpr",
        title="CUNE-BPR",
        task="retrieve",
        kind="event",
        family="embedding",
        paper="Zhang et al., SDM 2017",
        module="models.embedding.cune_bpr",
        explains="similarity",
    ),
    Entry(
        name="emcdr",
        title="EMCDR",
        task="retrieve",
        kind="event",
        family="embedding",
        paper="Man et al., IJCAI 2017",
        module="models.embedding.emcdr",
        explains="similarity",
        needs=("two_domains",),
        defaults={"split": {"name": "cross_domain"}},
    ),
)

MODELS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def get(name: str) -> Entry:
    """Returns the entry called `name`; raises ConfigError naming the nearest one."""
    if name not in MODELS:
        raise ConfigError(f"no model is called {name!r}{nearest(name, MODELS)}")
    return MODELS[name]


def load(name: str) -> ModuleType:
    """Imports and returns the module of the model called `name`."""
    return importlib.import_module(get(name).module)


def code_hash() -> str:
    """Returns a hash of the source of `models/`.

    TFX caches by dotted path, so an edit must change something else.
    """
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
