"""Which models there are. Light on purpose: listing them must not import TensorFlow."""

import hashlib
import importlib
import pathlib
from dataclasses import dataclass
from types import ModuleType

from models.names.errors import ConfigError, nearest


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


_ENTRIES = (
    Entry(
        "popularity",
        "Popularity",
        "retrieve",
        "event",
        "baseline",
        "train counts",
        "models.baseline.popularity",
        baseline=True,
    ),
    Entry(
        "item_knn",
        "Item-kNN",
        "retrieve",
        "profile",
        "baseline",
        "Sarwar et al., WWW 2001",
        "models.baseline.item_knn",
    ),
    Entry(
        "ease", "EASE", "retrieve", "profile", "baseline", "Steck, WWW 2019", "models.baseline.ease"
    ),
    Entry(
        "bpr_mf",
        "BPR-MF",
        "retrieve",
        "event",
        "baseline",
        "Rendle et al., UAI 2009",
        "models.baseline.bpr_mf",
    ),
    Entry(
        "autorec",
        "AutoRec",
        "score",
        "profile",
        "autoencoder",
        "Sedhain et al., WWW 2015",
        "models.autoencoder.autorec",
        learns="rating",
    ),
    Entry(
        "mult_dae",
        "Mult-DAE",
        "retrieve",
        "profile",
        "autoencoder",
        "Liang et al., WWW 2018",
        "models.autoencoder.mult_dae",
    ),
    Entry(
        "mult_vae",
        "Mult-VAE",
        "retrieve",
        "profile",
        "autoencoder",
        "Liang et al., WWW 2018",
        "models.autoencoder.mult_vae",
    ),
    Entry(
        "two_tower",
        "Two-tower",
        "retrieve",
        "event",
        "industry",
        "Yi et al., RecSys 2019",
        "models.industry.two_tower",
    ),
    Entry("neumf", "NeuMF", "retrieve", "event", "mlp", "He et al., WWW 2017", "models.mlp.neumf"),
    Entry(
        "item2vec",
        "Item2vec",
        "retrieve",
        "walk",
        "embedding",
        "Barkan & Koenigstein, MLSP 2016",
        "models.embedding.item2vec",
    ),
    Entry(
        "gru4rec",
        "GRU4Rec",
        "retrieve",
        "sequence",
        "rnn",
        "Hidasi et al., ICLR 2016, CIKM 2018",
        "models.rnn.gru4rec",
    ),
    Entry(
        "biased_mf",
        "Biased MF",
        "score",
        "event",
        "baseline",
        "Koren et al., Computer 2009",
        "models.baseline.biased_mf",
        learns="rating",
    ),
    Entry(
        "lr",
        "LR",
        "score",
        "event",
        "feature_interaction",
        "McMahan et al., KDD 2013",
        "models.feature_interaction.lr",
        learns="click",
    ),
    Entry(
        "fm",
        "FM",
        "score",
        "event",
        "feature_interaction",
        "Rendle, ICDM 2010",
        "models.feature_interaction.fm",
        learns="click",
    ),
    Entry(
        "wide_deep",
        "Wide & Deep",
        "score",
        "event",
        "feature_interaction",
        "Cheng et al., DLRS 2016",
        "models.feature_interaction.wide_deep",
        learns="click",
    ),
    Entry(
        "deepfm",
        "DeepFM",
        "score",
        "event",
        "feature_interaction",
        "Guo et al., IJCAI 2017",
        "models.feature_interaction.deepfm",
        learns="click",
    ),
    Entry(
        "deepconn",
        "DeepCoNN",
        "score",
        "event",
        "cnn",
        "Zheng et al., WSDM 2017",
        "models.cnn.deepconn",
        learns="rating",
    ),
    Entry(
        "convmf",
        "ConvMF",
        "score",
        "event",
        "cnn",
        "Kim et al., RecSys 2016",
        "models.cnn.convmf",
        learns="rating",
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
    """Returns a hash of the source of `models/`: TFX caches by dotted path, so an edit must change
    something else.
    """
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
