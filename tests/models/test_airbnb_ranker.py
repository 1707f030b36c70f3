"""Airbnb's ranker: what the embeddings tell it, and the order that it learns."""

from tests.models.score_contract import ScoreContract


class TestAirbnbRanker(ScoreContract):
    """Without lists, each row by itself; all that users had is clicked."""

    name = "airbnb_ranker"
    hyper_parameters = {
        "list_loss": None,
        "epochs": 12,
        "batch_size": 128,
        "learning_rate": 5e-3,
        "listings": {"epochs": 2, "embedding_dim": 8},
    }
